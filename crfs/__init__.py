"""crfs mounts container images straight from their registry: metadata at once, bytes as they are read."""

__version__ = "0.1.0"
