"""Bytes of files in a merged tree: from memory, from the disk cache, or from where the image lies.

Any thread. read() may wait for the network, so nobody calls it with a lock held.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from crfs._native.index import Chunk, Tree
from crfs._native.pagecache import PageCache
from crfs.blobs.store import Store
from crfs.errors import CrfsError
from crfs.image.chunks import ChunkLoader
from crfs.image.prefetch import Prefetch
from crfs.layers.layer import Layer, Trust

log = logging.getLogger(__name__)
# how often a read that waits looks whether anybody still wants it
_LOOK_SECONDS = 0.2


class ImageReader:
    """read() and find_cached() over one tree. `wait_seconds` bounds what one read waits for one chunk."""

    def __init__(
        self,
        tree: Tree,
        layers: Sequence[Layer],
        pages: PageCache,
        store: Store,
        loader: ChunkLoader,
        wait_seconds: float,
    ) -> None:
        self._tree = tree
        self._layers = layers
        self._pages = pages
        self._store = store
        self._loader = loader
        self._wait_seconds = wait_seconds
        self._prefetch = Prefetch(tree)
        self._may_lose_belief = any(layer.trust is Trust.BACKGROUND for layer in layers)
        self._tars = {
            number: os.open(layer.tar, os.O_RDONLY | os.O_CLOEXEC)
            for number, layer in enumerate(layers)
            if layer.tar is not None
        }

    def stop(self) -> None:
        """Wake everyone who waits: their reads, and all further ones that would have to wait, fail."""
        self._loader.stop()

    def close(self) -> None:
        """Let go of the cache's files."""
        for fd in self._tars.values():
            os.close(fd)
        self._tars.clear()

    def find_cached(self, inode: int, off: int, size: int) -> bytes | None:
        """What read() would return, if it lies in memory; never waits."""
        spans = self._tree.cover(inode, off, size)
        if len(spans) != 1 or spans[0][0] < 0:
            return None if spans else b""
        chunk, start, end = spans[0]
        if self._may_lose_belief and self._layers[self._tree.chunk(chunk).layer].health.failure:
            return None
        return self._pages.read(chunk, start, end - start)

    def read(self, inode: int, off: int, size: int, given_up: Callable[[], bool] = lambda: False) -> bytes:
        """The file's bytes [off, off + size), fewer only at its end. OSError(EIO) where they can't be had.

        `given_up` is asked while bytes are on their way: once it is true, nobody wants them (EINTR).
        """
        try:
            parts = [
                bytes(end - start) if chunk < 0 else self._read_chunk(inode, chunk, start, end, given_up)
                for chunk, start, end in self._tree.cover(inode, off, size)
            ]
        except CrfsError as error:
            log.error("%s: %s", self._describe(inode, off), error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _describe(self, inode: int, off: int) -> str:
        """Layer, file and registry, for a line in the log."""
        spans = self._tree.cover(inode, off, 1)
        layer = self._layers[self._tree.chunk(spans[0][0]).layer] if spans and spans[0][0] >= 0 else None
        where = f"layer {layer.name}, from {layer.blob.name}" if layer else "no layer"
        return f"can't read {os.fsdecode(self._tree.path(inode))!r} at {off} ({where})"

    def _read_chunk(
        self, inode: int, chunk: int, start: int, end: int, given_up: Callable[[], bool]
    ) -> bytes:
        place = self._tree.chunk(chunk)
        layer = self._layers[place.layer]
        if layer.health.failure:
            raise CrfsError(layer.health.failure)
        tar = self._tars.get(place.layer)
        if tar is not None:
            return _pread(tar, place, start, end)
        ahead = self._prefetch.ahead(inode, chunk)
        data = self._find_chunk(place, start, end)
        flight = self._loader.load(chunk, self._prefetch.along(chunk)) if data is None else None
        for number in ahead:
            self._start(number)
        if flight is None:
            assert data is not None
            return data
        return self._wait(flight, given_up)[start:end]

    def _find_chunk(self, place: Chunk, start: int, end: int) -> bytes | None:
        data = self._pages.read(place.id, start, end - start)
        if data is None and place.digest is not None:
            data = self._store.read_chunk(place.digest, place.size, start, end)
        return data

    def _start(self, chunk: int) -> None:
        """Begin to fetch a chunk that a reader will come to, unless it is here."""
        place = self._tree.chunk(chunk)
        if self._pages.read(chunk, 0, 1) is None and not (
            place.digest and self._store.has_chunk(place.digest)
        ):
            self._loader.load(chunk, urgent=False)

    def _wait(self, flight: Future[bytes], given_up: Callable[[], bool]) -> bytes:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                return flight.result(_LOOK_SECONDS)
            except TimeoutError as error:
                if given_up():
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR)) from error
                if time.monotonic() > deadline:
                    raise CrfsError(f"nothing arrived within {self._wait_seconds:.0f} seconds") from error


def _pread(tar: int, place: Chunk, start: int, end: int) -> bytes:
    data = os.pread(tar, end - start, place.blob_off + start)
    if len(data) != end - start:
        raise CrfsError("the cached layer is cut short")
    return data
