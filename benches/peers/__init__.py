"""Those that crfs is compared with, and crfs: one module each, all with the Protocol of peer.py."""
