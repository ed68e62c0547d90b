"""What serves a mount: llfuse alone, or the kernel's overlayfs over it."""
