"""As the overlay's tests: root, FUSE and the kernel's overlayfs."""

from tests.t6_mount.overlay.conftest import _overlayfs, arena, crfs_overlay, overlay

__all__ = ["_overlayfs", "arena", "crfs_overlay", "overlay"]
