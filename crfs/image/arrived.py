"""Puts files whose bytes are all here where the kernel finds them by itself (crfs.blobs.objects).

A file that is one chunk is there as soon as the chunk is; the others are put together here, in the thread for what
nobody waits for.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor

from crfs._native.contents import Contents
from crfs._native.index import Chunk, Tree
from crfs.blobs.objects import PARTS_SUFFIX
from crfs.blobs.store import Store
from crfs.layers.layer import Layer, Trust

log = logging.getLogger(__name__)


class Arrived:
    """read_out() is called for each file that was read to its end, from any thread, and returns at once."""

    def __init__(
        self, tree: Tree, contents: Contents, layers: Sequence[Layer], store: Store, pool: Executor
    ) -> None:
        self._tree = tree
        self._contents = contents
        self._layers = layers
        self._store = store
        self._pool = pool
        self._done: set[int] = set()

    def read_out(self, inode: int) -> None:
        """A file may have arrived."""
        if self._store.objects is not None and inode not in self._done:
            self._done.add(inode)
            # the pool may have ended
            with contextlib.suppress(RuntimeError):
                self._pool.submit(self._keep, inode)

    def _keep(self, inode: int) -> None:
        name = (self._contents.name(inode) or b"").decode()
        objects = self._store.objects
        if objects is None or not name.endswith(PARTS_SUFFIX) or os.path.exists(objects.path(name)):
            return
        try:
            if not self._is_here(inode) or not self._put_together(inode, name):
                self._done.discard(inode)
        except OSError as error:
            log.warning("%s: a file can't be put together: %s", objects.root, error.strerror)

    def _chunks(self, inode: int) -> Iterator[Chunk]:
        size = self._tree.attributes(inode).size
        return (self._tree.chunk(chunk) for chunk, _, _ in self._tree.cover(inode, 0, size) if chunk >= 0)

    def _is_here(self, inode: int) -> bool:
        """Whether all chunks seem to be, and are known to be the right ones."""
        for chunk in self._chunks(inode):
            layer = self._layers[chunk.layer]
            if layer.health.failure:
                return False
            if layer.tar is None and (chunk.digest is None or not self._store.has_chunk(chunk.digest)):
                return False
            if layer.tar is not None and layer.trust is not Trust.WHOLE:
                return False
        return True

    def _put_together(self, inode: int, name: str) -> bool:
        """Write the file, with its holes, and give it its name; False if a chunk is missing after all."""
        with self._store.directory.staged() as staged:
            os.ftruncate(staged.fileno(), self._tree.attributes(inode).size)
            for chunk in self._chunks(inode):
                if not self._copy(chunk, staged.fileno()):
                    return False
            self._store.publish_object(staged, name)
        return True

    def _copy(self, chunk: Chunk, out: int) -> bool:
        layer = self._layers[chunk.layer]
        if layer.tar is not None:
            return _copy_range(str(layer.tar), chunk.blob_off, chunk.size, out, chunk.file_off)
        assert chunk.digest is not None
        path = self._store.verified_chunk(chunk.digest, chunk.size)
        return path is not None and _copy_range(path, 0, chunk.size, out, chunk.file_off)


def _copy_range(path: str, start: int, size: int, out: int, off: int) -> bool:
    """Copy bytes of a file, by sharing them where the file system can; False if the file is gone or cut short."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        while size:
            done = os.copy_file_range(source, out, size, start, off)
            if not done:
                return False
            size, start, off = size - done, start + done, off + done
    finally:
        os.close(source)
    return True
