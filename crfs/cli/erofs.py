"""Mounts by the erofs engine: one is left to a process that serves others as well, or has one of its own.

Not imported by who uses another engine. crfs.cli.images has what such a process reads from.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from crfs.cli.compose import OpenedImage
from crfs.cli.images import Gone, Images
from crfs.cli.options import metrics_of
from crfs.cli.pinned import pinned
from crfs.cli.services import Workers, open_workers
from crfs.cli.wishes import Wish, decode_wish
from crfs.errors import CrfsError, MountError
from crfs.fuse.contenttree import ContentTree
from crfs.fuse.session import interruptible, serve
from crfs.image.report import Report
from crfs.mount.door import Door
from crfs.mount.engines.erofs import Overlays, OverTree, Trees, open_contents
from crfs.mount.engines.places import private_place
from crfs.mount.fuse import MountRequest
from crfs.mount.memory import settle
from crfs.mount.server import Server, Uses
from crfs.overlay.spec import UpperSpec

_GONE_SECONDS = 0.1


class ErofsServer:
    """Mounts over one session of contents; `place` is a private one. serve() on the main thread, the rest on any."""

    def __init__(self, place: Path, workers: Workers, *, sees_reads: bool = False) -> None:
        self._place = place
        self._operations = ContentTree()
        self._images = Images(self._operations, workers, sees_reads=sees_reads)
        self._trees = Trees(place)
        self.uses = Uses(self._end)
        self._overlays = Overlays(self.uses.end)
        self._door: Door | None = None
        self._is_open = threading.Event()

    def prepare(self, wish: Wish, until_end: contextlib.ExitStack, gone: Gone) -> OverTree:
        """Open the image that is wished for, and mount its tree. Any CrfsError; EngineRefused where EROFS can't."""
        image = until_end.enter_context(self._images.opened(wish.source, wish.settings, gone))
        tree = until_end.enter_context(self._trees.mounted(image.path))
        layers = [tree, image.objects, self._place / "contents"]
        if wish.settings.image_config is not None:
            image.write_config(wish.source, wish.settings, wish.settings.image_config)
        request = _request(wish, image.opened, image.report)
        if wish.spec is not None:
            _recover(image.opened, wish.spec)
        until_end.enter_context(metrics_of(wish.metrics, request))
        return OverTree(request, tuple(layer for layer in layers if layer is not None), wish.spec)

    def mount(self, wanted: OverTree, until_end: contextlib.ExitStack, gone: Gone) -> Callable[[], None]:
        """Mount it over contents; what takes it down. MountError."""
        while not self._is_open.wait(_GONE_SECONDS):
            if gone():
                raise MountError(f"{wanted.request.mountpoint}: nobody waits for the mount any more")
        return self._overlays.mount(wanted, until_end).take_down

    def make(self, data: bytes, until_end: contextlib.ExitStack, gone: Gone) -> Callable[[], None]:
        """prepare() and mount() what another process wishes. See crfs.mount.server."""
        wanted = self.prepare(decode_wish(data), until_end, gone)
        if gone():
            raise MountError(f"{wanted.request.mountpoint}: nobody waits for the mount any more")
        return self.mount(wanted, until_end, gone)

    def let_in(self, door: Door) -> None:
        """Have others ask for mounts, until there have been no more for a moment."""
        self._door = door
        Server(door, self.uses, self.make).start()

    def serve(self, ready: Callable[[], None]) -> None:
        """Serve contents until the last mount is gone, or a signal ends all; `ready` is called when it begins."""
        contents = open_contents(self._operations, self._place)
        settle()

        def begin() -> None:
            self._is_open.set()
            ready()

        try:
            serve(contents, begin, self._stop)
        finally:
            self._overlays.close()

    def _stop(self) -> None:
        self._images.stop()

    def _end(self) -> None:
        if self._door is not None:
            self._door.close()
        os.kill(os.getpid(), signal.SIGTERM)


def serve_together(door: Door, ready: Callable[[], None]) -> None:
    """Serve whoever asks at a door, until nobody is left. MountError where there can be no session of contents."""
    with contextlib.closing(open_workers()) as workers, private_place() as place:
        server = ErofsServer(place, workers)
        server.let_in(door)
        server.serve(ready)


def serve_alone(wish: Wish, ready: Callable[[], None]) -> None:
    """Serve one mount until it is gone; EngineRefused where that can't be done."""
    sees_reads = wish.settings.record is not None
    failed: list[CrfsError] = []
    with contextlib.closing(open_workers()) as workers, private_place() as place:
        server = ErofsServer(place, workers, sees_reads=sees_reads)
        server.uses.begin()
        with contextlib.ExitStack() as until_end:
            with interruptible():
                wanted = server.prepare(wish, until_end, lambda: False)

            def mount() -> None:
                try:
                    server.mount(wanted, until_end, lambda: False)
                except CrfsError as error:
                    failed.append(error)
                    server.uses.end()
                else:
                    ready()

            server.serve(lambda: threading.Thread(target=mount, name="crfs-mount", daemon=True).start())
    if failed:
        raise failed[0]


def _request(wish: Wish, image: OpenedImage, report: Callable[[], Report]) -> MountRequest:
    if wish.spec is None:
        return MountRequest(wish.where, image.name, wish.options, choice=wish.choice, report=report)
    return MountRequest(
        wish.where,
        str(wish.source),
        wish.options,
        writable=True,
        lowers=(str(pinned(wish.source, image.digest)),),
        upper=os.fsdecode(wish.spec.upperdir),
        choice=wish.choice,
        report=report,
    )


def _recover(image: OpenedImage, spec: UpperSpec) -> None:
    """Clear up what a crash of the fuse engine has left half-done, which the kernel's overlayfs would not."""
    # late: only for who writes
    from crfs.cli.overlay import open_overlay
    from crfs.overlay.lower import ImageLower

    open_overlay([ImageLower(image.tree, image.reader)], spec).close()
