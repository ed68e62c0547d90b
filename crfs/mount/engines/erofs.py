"""The erofs engine: the kernel carries the tree, as an EROFS image, and the changes; llfuse only bytes of files.

    overlay
      upper            where changes go, if anywhere
      tree             the EROFS image: names, attributes, and what each file's content is called
      objects          a directory of the cache, where contents are by these names that are here whole
      contents         llfuse: any content

As in the overlay engine, what is below the overlay is mounted in a private place and taken out of there again.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from crfs.errors import EngineRefused, MountError
from crfs.fuse.contenttree import ContentTree
from crfs.mount.engines.erofsfs import mount_image
from crfs.mount.engines.kernel import escaped
from crfs.mount.engines.overlay import Top, serve_under_overlay
from crfs.mount.engines.overlayfs import takes_metacopy
from crfs.mount.fuse import MountRequest
from crfs.overlay.overlay import UpperSpec


class Below(Struct, frozen=True):
    """What lies under the overlay, beside the session: the file with the tree's image, and objects."""

    image: Path
    objects: Path | None


def serve_over_contents(
    operations: ContentTree,
    below: Below,
    request: MountRequest,
    spec: UpperSpec | None,
    ready: Callable[[], None],
    stop: Callable[[], None],
) -> None:
    """Mount the EROFS image of a tree over its contents, and serve these until that is unmounted.

    See crfs.mount.fuse.serve_operations().
    """

    def top(place: Path, until_end: contextlib.ExitStack) -> Top:
        return _OverImage(request, spec, place, until_end, below)

    serve_under_overlay(operations, request, top, ready, stop)


class _OverImage(Top):
    """The overlay over an image and contents."""

    def __init__(
        self,
        request: MountRequest,
        spec: UpperSpec | None,
        place: Path,
        until_end: contextlib.ExitStack,
        below: Below,
    ) -> None:
        super().__init__(request, spec, place, until_end)
        self._below = below
        self._tree = place / "tree"
        self.session_place = place / "contents"
        self.mountpoints = (self._tree, self.session_place)

    def prepare(self) -> None:
        try:
            mount_image(self._below.image, self._tree)
        except OSError as error:
            raise EngineRefused(f"the EROFS image of the tree can't be mounted: {error.strerror}") from error

    def mount(self) -> None:
        layers = (self._tree, self._below.objects, self.session_place)
        self.mount_over(b"::".join(escaped(os.fsencode(layer)) for layer in layers if layer is not None))
        if not takes_metacopy(self.request.mountpoint):
            raise MountError(f"{self.request.mountpoint}: overlayfs refuses metacopy")
