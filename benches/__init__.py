"""Questions about speed and memory, one file each, asked of real images, servers and programs."""
