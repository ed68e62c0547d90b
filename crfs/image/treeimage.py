"""EROFS images of merged trees in the disk cache, by the digest of their manifest. No network; any thread.

One that was not written since the machine's start, or before a crash, is written anew: that takes less than hashing it.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from crfs._native.contents import Contents
from crfs._native.index import Tree
from crfs.blobs.store import Store
from crfs.errors import CrfsError
from crfs.formats.erofs import write_image
from crfs.layers.layer import Layer, Trust

log = logging.getLogger(__name__)
# of what is in an image; one of another version is not seen
_VERSION = 2


def contents_of(tree: Tree, layers: Sequence[Layer]) -> Contents:
    """The names of a tree's contents, which are the same in all images with these layers."""
    return Contents(tree, [layer.name.encode(errors="surrogateescape") for layer in layers])


def image_name(digest: str) -> str:
    """Where in the cache the image of the manifest with that digest lies."""
    return f"images/{digest.replace(':', '-')}.{_VERSION}"


@contextlib.contextmanager
def tree_image(
    store: Store, name: str, digest: str | None, tree: Tree, layers: Sequence[Layer], contents: Contents
) -> Iterator[Path]:
    """A file with the image; it is kept where the tree is. CrfsError where it can't be written, or EROFS has no room.

    `name` is the tree's where it has no `digest`.
    """
    uuid = hashlib.sha256((digest or name).encode(errors="surrogateescape")).digest()[:16]
    kept = None if digest is None or _is_doubtful(layers) else image_name(digest)
    if kept is not None:
        store.directory.pin(kept)
        path = store.directory.root / kept
        if store.directory.is_believed(kept) and path.is_file():
            with contextlib.suppress(OSError):
                os.utime(path)
            yield path
            return
    with contextlib.ExitStack() as until_end:
        try:
            staged = until_end.enter_context(store.directory.staged())
            staged.writelines(write_image(tree, contents, uuid))
            path = _keep(store, staged, kept)
        except OSError as error:
            raise CrfsError(
                f"{store.directory.root}: no image of the tree can be written: {error.strerror}"
            ) from error
        yield path


def _keep(store: Store, staged: IO[bytes], name: str | None) -> Path:
    """Give it its name; None: it has none."""
    if name is None:
        staged.flush()
        return Path(staged.name)
    path = store.directory.root / name
    store.directory.publish(staged, path)
    store.directory.believe(name)
    return path


def _is_doubtful(layers: Sequence[Layer]) -> bool:
    return any(layer.trust in (Trust.BACKGROUND, Trust.NONE) for layer in layers)
