"""The fuse engine, writable: llfuse carries an overlay. Not imported by who mounts read-only."""

import os
from collections.abc import Callable

from crfs.fuse.session import DISK_WORKERS, NETWORK_WORKERS
from crfs.fuse.view import PLAIN_VIEW, View
from crfs.fuse.writable import Writable
from crfs.mount.fuse import MountRequest, serve_operations
from crfs.overlay.overlay import Overlay


def serve_overlay(
    overlay: Overlay,
    request: MountRequest,
    ready: Callable[[], None],
    stop: Callable[[], None],
    view: View = PLAIN_VIEW,
) -> None:
    """Mount an overlay and serve it until it is unmounted; then close it. See serve_operations()."""
    # modes are the caller's, who has applied his own umask
    os.umask(0)
    try:
        serve_operations(Writable(overlay, view), request, ready, stop, workers_for(overlay))
    finally:
        overlay.close()


def workers_for(overlay: Overlay) -> int:
    """How many threads answer best."""
    return DISK_WORKERS if overlay.is_local else NETWORK_WORKERS
