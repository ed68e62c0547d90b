"""The erofs engine: the kernel carries the tree, as an EROFS image, and the changes; llfuse only bytes of files.

    overlay
      upper            where changes go, if anywhere
      tree             the EROFS image: names, attributes, and what each file's content is called
      objects          a directory of the cache, where contents are by these names that are here whole
      contents         llfuse: any content

Contents are in one place for all mounts of a process, and so is the tree of an image that is mounted several times.
"""

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from crfs.errors import EngineRefused, MountError
from crfs.fuse.contenttree import ContentTree
from crfs.fuse.session import NETWORK_WORKERS, open_session
from crfs.mount.engines.erofsfs import mount_image
from crfs.mount.engines.kernel import detach, escaped, mount_flags
from crfs.mount.engines.overlayfs import held, mount_overlay, said, takes_metacopy
from crfs.mount.engines.unmounts import Unmounts
from crfs.mount.fuse import MountRequest, announced, prepare, session_options
from crfs.mount.mountpoint import find_mount
from crfs.overlay.spec import UpperSpec

log = logging.getLogger(__name__)
# an image's network and threads have ended by then
_END_SECONDS = 10.0


def open_contents(operations: ContentTree, place: Path) -> Path:
    """Mount contents in a private place; where. MountError."""
    prepare()
    at = place / "contents"
    at.mkdir()
    # else a dozen reads that wait for one image's registry are all that the kernel asks for
    options = (f"max_background={NETWORK_WORKERS}",)
    open_session(operations, at, session_options(MountRequest(at, "crfs", options)))
    return at


class Trees:
    """EROFS images in a private place, each mounted once for as long as somebody uses it. Any thread."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._count = itertools.count()
        self._uses: dict[Path, int] = {}
        self._places: dict[Path, Path] = {}

    @contextlib.contextmanager
    def mounted(self, image: Path) -> Iterator[Path]:
        """Where the image in that file is mounted meanwhile; EngineRefused."""
        with self._lock:
            at = self._places.get(image) or self._mount(image)
            self._uses[image] += 1
        try:
            yield at
        finally:
            with self._lock:
                self._uses[image] -= 1
                if not self._uses[image]:
                    self._unmount(image)

    def _mount(self, image: Path) -> Path:
        # short: a page of options has to take it
        at = self._place / f"tree{next(self._count)}"
        at.mkdir()
        try:
            mount_image(image, at)
        except OSError as error:
            raise EngineRefused(f"the EROFS image of the tree can't be mounted: {error.strerror}") from error
        self._places[image], self._uses[image] = at, 0
        return at

    def _unmount(self, image: Path) -> None:
        at = self._places.pop(image)
        del self._uses[image]
        with contextlib.suppress(OSError):
            detach(os.fsencode(at))
            at.rmdir()


class OverTree(Struct, frozen=True):
    """An overlay to be mounted: over which `layers`, topmost first, with changes in `spec` or nowhere."""

    request: MountRequest
    layers: tuple[Path, ...]
    spec: UpperSpec | None


class Overlay(Struct, frozen=True):
    """A mounted one; `until_end` is closed when it is gone, then `known`."""

    where: Path
    device: str
    until_end: contextlib.ExitStack
    known: contextlib.ExitStack

    def take_down(self) -> None:
        """Detach it, if it is still there, and not another one by now."""
        mounted = find_mount(self.where)
        if mounted is not None and mounted.device == self.device:
            with contextlib.suppress(OSError):
                detach(os.fsencode(self.where))

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """It is taken down where what comes next fails, and nobody knows of it any more."""
        try:
            yield
        except BaseException:
            self.take_down()
            self.known.close()
            raise

    def close(self) -> None:
        """Let go of what it was made of, and then let nobody know of it any more."""
        with self.known, self.until_end:
            pass


class Overlays:
    """What is mounted over the trees of this process. `ended` is called after the end of each. Any thread."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._unmounts = Unmounts()
        self._mounted: dict[int, Overlay] = {}
        self._endings: set[threading.Thread] = set()
        self._over = False
        threading.Thread(
            target=self._unmounts.run, args=(self._gone,), name="crfs-unmounts", daemon=True
        ).start()

    def mount(self, wanted: OverTree, until_end: contextlib.ExitStack) -> Overlay:
        """Mount one; `until_end` is closed once that is gone, and is the caller's where this fails. MountError."""
        where = wanted.request.mountpoint
        try:
            _mount(wanted)
            root = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise MountError(f"{where}: {said(error)}") from error
        try:
            made = _known(wanted, root, until_end)
            with made.undone_on_error(), self._lock:
                if self._over:
                    raise MountError(f"{where}: the process that is to serve it ends")
                # from here on it may end at any time
                self._mounted[self._unmounts.watch(root)] = made
        finally:
            os.close(root)
        return made

    def _gone(self, number: int) -> None:
        with self._lock:
            gone = self._mounted.pop(number, None)
        if gone is not None:
            # it may take a while, and others may go meanwhile
            ending = threading.Thread(target=self._close, args=(gone,), name="crfs-end", daemon=True)
            self._endings.add(ending)
            ending.start()

    def _close(self, gone: Overlay) -> None:
        try:
            gone.close()
        finally:
            self._endings.discard(threading.current_thread())
            self._ended()

    def close(self) -> None:
        """Take down all that is left, as the process ends; wait for what is about to."""
        with self._lock:
            self._over = True
            left = list(self._mounted.values())
            self._mounted.clear()
        for each in left:
            log.info("unmounting %s", each.where)
            each.take_down()
        for each in left:
            each.close()
        for ending in list(self._endings):
            ending.join(_END_SECONDS)


def _mount(wanted: OverTree) -> None:
    request = wanted.request
    lowers = b"::".join(escaped(os.fsencode(layer)) for layer in wanted.layers)
    named = [option.removeprefix("fsname=") for option in request.options if option.startswith("fsname=")]
    source = [request.source, *named][-1]
    mount_overlay(lowers, wanted.spec, os.fsencode(request.mountpoint), source, mount_flags(request.options))


def _known(wanted: OverTree, root: int, until_end: contextlib.ExitStack) -> Overlay:
    """What has just been mounted, whose `root` that is, once others can know of it."""
    request = wanted.request
    device = os.fstat(root).st_dev
    made = Overlay(
        request.mountpoint, f"{os.major(device)}:{os.minor(device)}", until_end, contextlib.ExitStack()
    )
    with made.undone_on_error():
        mounted = find_mount(request.mountpoint)
        if mounted is None or mounted.device != made.device:
            raise MountError(f"{request.mountpoint}: somebody else mounts or unmounts here")
        if not takes_metacopy(mounted):
            raise MountError(f"{request.mountpoint}: overlayfs refuses metacopy")
        if wanted.spec is not None:
            until_end.enter_context(held(wanted.spec))
        made.known.enter_context(announced(request))
    return made
