"""The overlay engine: llfuse carries a tree that nobody writes to, the kernel's overlayfs the changes over it.

The tree is mounted in a private place, and taken out of there as soon as overlayfs has it: from then on only the
overlay refers to it. However that is unmounted, the kernel then ends the tree's connection, and that the session.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from crfs.errors import MountError
from crfs.fuse.session import NETWORK_WORKERS, Operations, open_session, serve
from crfs.mount.engines.kernel import detach, mount_flags
from crfs.mount.engines.overlayfs import held, mount_overlay, said
from crfs.mount.engines.places import private_place
from crfs.mount.fuse import MountRequest, announced, prepare, session_options
from crfs.mount.mountpoint import find_mount
from crfs.overlay.overlay import UpperSpec


def serve_under_overlay(
    operations: Operations,
    request: MountRequest,
    spec: UpperSpec,
    ready: Callable[[], None],
    stop: Callable[[], None],
    workers: int = NETWORK_WORKERS,
) -> None:
    """Mount a tree, and an overlay over it, and serve until that is unmounted.

    See crfs.mount.fuse.serve_operations().
    """
    prepare()
    with contextlib.ExitStack() as until_end:
        place = until_end.enter_context(private_place())
        top = _Top(request, spec, place, until_end)
        hidden = replace(request, mountpoint=place, writable=False)
        open_session(operations, place, session_options(hidden))

        def end() -> None:
            top.take_down()
            stop()

        serve(request.mountpoint, lambda: top.start(ready), end, workers=workers if request.threaded else 1)
        top.check()


class _Top:
    """The overlay over the tree. It is mounted by a thread, while the session answers what the kernel asks for that."""

    def __init__(
        self, request: MountRequest, spec: UpperSpec, place: Path, until_end: contextlib.ExitStack
    ) -> None:
        self._request = request
        self._spec = spec
        self._place = place
        self._until_end = until_end
        self._error: OSError | None = None

    def start(self, ready: Callable[[], None]) -> None:
        """Have it mounted; `ready` is called when it is."""
        threading.Thread(target=self._run, args=(ready,), name="crfs-mount", daemon=True).start()

    def _run(self, ready: Callable[[], None]) -> None:
        place = os.fsencode(self._place)
        try:
            self._mount(place)
        except OSError as error:
            self._error = error
        finally:
            # where the overlay has not been mounted, the session ends with it
            detach(place)
        if self._error is None:
            ready()

    def _mount(self, place: bytes) -> None:
        request = self._request
        at = os.fsencode(request.mountpoint)
        named = [option.removeprefix("fsname=") for option in request.options if option.startswith("fsname=")]
        mount_overlay(place, self._spec, at, [request.source, *named][-1], mount_flags(request.options))
        self._until_end.enter_context(held(self._spec))
        self._until_end.enter_context(announced(request))

    def take_down(self) -> None:
        """Detach the overlay, if it is still there, and not another one by now."""
        mounted = find_mount(self._request.mountpoint)
        if mounted is not None and f"lowerdir={self._place}," in f"{mounted.options},":
            with contextlib.suppress(OSError):
                detach(os.fsencode(self._request.mountpoint))

    def check(self) -> None:
        """At the end: MountError where it could not be mounted."""
        if self._error is not None:
            raise MountError(f"{self._request.mountpoint}: {said(self._error)}") from self._error
