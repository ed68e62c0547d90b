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
from crfs.mount.engines.kernel import detach, escaped, mount_flags
from crfs.mount.engines.overlayfs import held, mount_overlay, said
from crfs.mount.engines.places import private_place
from crfs.mount.fuse import MountRequest, announced, prepare, session_options
from crfs.mount.mountpoint import find_mount
from crfs.overlay.spec import UpperSpec


def serve_under_overlay(
    operations: Operations,
    request: MountRequest,
    make_top: Callable[[Path, contextlib.ExitStack], "Top"],
    ready: Callable[[], None],
    stop: Callable[[], None],
    workers: int = NETWORK_WORKERS,
) -> None:
    """Mount a tree, and an overlay over it, and serve until that is unmounted.

    See crfs.mount.fuse.serve_operations(). `make_top` is given a private place, and what is closed at the end.
    """
    prepare()
    with contextlib.ExitStack() as until_end:
        place = until_end.enter_context(private_place())
        top = make_top(place, until_end)
        for mountpoint in top.mountpoints:
            mountpoint.mkdir(exist_ok=True)
        top.prepare()
        hidden = replace(request, mountpoint=top.session_place, writable=False)
        try:
            open_session(operations, top.session_place, session_options(hidden))
        except MountError as error:
            # where it was to be is nothing that anybody has named
            reason = str(error).removeprefix(f"{top.session_place}: ")
            raise MountError(f"{request.mountpoint}: {reason}") from error

        def end() -> None:
            top.take_down()
            stop()

        serve(request.mountpoint, lambda: top.start(ready), end, workers=workers if request.threaded else 1)
        top.check()


class Top:
    """The overlay over the tree. It is mounted by a thread, while the session answers what the kernel asks for that.

    `mountpoints`: all that is mounted in the private place, of which the session is at `session_place`.
    """

    def __init__(
        self, request: MountRequest, spec: UpperSpec | None, place: Path, until_end: contextlib.ExitStack
    ) -> None:
        self.request = request
        self.session_place = place
        self.mountpoints: tuple[Path, ...] = (place,)
        self._spec = spec
        self._place = place
        self._until_end = until_end
        self._error: OSError | MountError | None = None

    def prepare(self) -> None:
        """Before there is a session: mount what needs none. EngineRefused."""

    def start(self, ready: Callable[[], None]) -> None:
        """Have it mounted; `ready` is called when it is."""
        threading.Thread(target=self._run, args=(ready,), name="crfs-mount", daemon=True).start()

    def _run(self, ready: Callable[[], None]) -> None:
        try:
            self.mount()
        except (OSError, MountError) as error:
            self._error = error
            self.take_down()
        finally:
            # where the overlay has not been mounted, the session ends with it
            for mountpoint in self.mountpoints:
                with contextlib.suppress(OSError):
                    detach(os.fsencode(mountpoint))
        if self._error is None:
            if self._spec is not None:
                self._until_end.enter_context(held(self._spec))
            self._until_end.enter_context(announced(self.request))
            ready()

    def mount(self) -> None:
        """Mount the overlay; OSError, MountError."""
        self.mount_over(escaped(os.fsencode(self._place)))

    def mount_over(self, lowers: bytes) -> None:
        """The same, over what `lowerdir=` is to say."""
        request = self.request
        at = os.fsencode(request.mountpoint)
        named = [option.removeprefix("fsname=") for option in request.options if option.startswith("fsname=")]
        mount_overlay(lowers, self._spec, at, [request.source, *named][-1], mount_flags(request.options))

    def take_down(self) -> None:
        """Detach the overlay, if it is still there, and not another one by now."""
        mounted = find_mount(self.request.mountpoint)
        ours = f"lowerdir={self._place}"
        if mounted is not None and any(f"{ours}{end}" in f"{mounted.options}," for end in (",", "/")):
            with contextlib.suppress(OSError):
                detach(os.fsencode(self.request.mountpoint))

    def check(self) -> None:
        """At the end: MountError where it could not be mounted."""
        if isinstance(self._error, OSError):
            raise MountError(f"{self.request.mountpoint}: {said(self._error)}") from self._error
        if self._error is not None:
            raise self._error
