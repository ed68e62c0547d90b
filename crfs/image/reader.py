"""Bytes of files in a merged tree: from memory, from the disk cache, or from where the image lies.

Any thread. read() may wait for the network, so nobody calls it with a lock held.
"""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from crfs._native.index import Chunk, Tree
from crfs._native.pagecache import PageCache
from crfs.blobs.need import Need
from crfs.blobs.store import Store
from crfs.errors import CrfsError
from crfs.image.chunks import ChunkLoader
from crfs.image.counters import Counters
from crfs.image.libraries import Libraries
from crfs.image.modules import Modules
from crfs.image.objects import ModulesAhead, ObjectsAhead
from crfs.image.prefetch import NOTHING, ROW_ARRIVED, ROW_HERE, ROW_MISSED, Along, Prefetch
from crfs.layers.layer import Layer, Trust

log = logging.getLogger(__name__)
# how often a read that waits looks whether anybody still wants it
_LOOK_SECONDS = 0.2


class ImageReader:
    """read() and find_cached() over one tree. `wait_seconds` bounds what one read waits for one chunk.

    `pool` is where what is read ahead of a program's loader is looked for; `touch` is told of each chunk that is read;
    `counters` count what readers get and wait for.
    """

    def __init__(
        self,
        tree: Tree,
        layers: Sequence[Layer],
        pages: PageCache,
        store: Store,
        loader: ChunkLoader,
        pool: Executor,
        wait_seconds: float,
        touch: Callable[[int], None] = lambda chunk: None,
        counters: Counters | None = None,
    ) -> None:
        self._tree = tree
        self._layers = layers
        self._pages = pages
        self._store = store
        self._loader = loader
        self._wait_seconds = wait_seconds
        self._touch = touch
        self._counters = counters or Counters(len(layers))
        self._prefetch = Prefetch(tree)
        self._objects = ObjectsAhead(tree, Libraries(tree, self._read_here), self._start_object, pool)
        modules = Modules(tree, self._read_here)
        self._modules = ModulesAhead(tree, modules, self._start_module, self._objects, pool)
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
        layer = self._tree.chunk(chunk).layer
        if self._may_lose_belief and self._layers[layer].health.failure:
            return None
        data = self._pages.read(chunk, start, end - start)
        if data is not None:
            self._touch(chunk)
            self._counters.cached(layer, len(data))
            if off == 0:
                self._first_read(inode, data)
            elif start == 0:
                # what was fetched ahead is reached: on with it
                self._start_all(self._prefetch.ahead(inode, chunk, ROW_ARRIVED))
        return data

    def read(self, inode: int, off: int, size: int, given_up: Callable[[], bool] = lambda: False) -> bytes:
        """The file's bytes [off, off + size), fewer only at its end. OSError(EIO) where they can't be had.

        `given_up` is asked while bytes are on their way: once it is true, nobody wants them (EINTR).
        """
        if off == 0:
            self._modules.asked_for(inode)
        try:
            parts = [
                bytes(end - start) if chunk < 0 else self._read_chunk(inode, chunk, start, end, given_up)
                for chunk, start, end in self._tree.cover(inode, off, size)
            ]
        except CrfsError as error:
            log.error("%s: %s", self._describe(inode, off), error)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if off == 0:
            self._first_read(inode, data)
        return data

    def _first_read(self, inode: int, data: bytes) -> None:
        self._objects.first_read(inode, data)
        self._modules.first_read(inode, data)

    def _describe(self, inode: int, off: int) -> str:
        """Layer, file and registry, for a line in the log."""
        spans = self._tree.cover(inode, off, 1)
        layer = self._layers[self._tree.chunk(spans[0][0]).layer] if spans and spans[0][0] >= 0 else None
        where = f"layer {layer.name}, from {layer.blob.name}" if layer else "no layer"
        return f"can't read {os.fsdecode(self._tree.path(inode))!r} at {off} ({where})"

    def _read_chunk(
        self, inode: int, chunk: int, start: int, end: int, given_up: Callable[[], bool]
    ) -> bytes:
        self._touch(chunk)
        place = self._tree.chunk(chunk)
        layer = self._layers[place.layer]
        if layer.health.failure:
            raise CrfsError(layer.health.failure)
        tar = self._tars.get(place.layer)
        if tar is not None:
            self._counters.cached(place.layer, end - start)
            return _pread(tar, place, start, end)
        data = self._find_chunk(place, start, end)
        sparse = data is not None or self._objects.is_object(inode)
        ahead = self._prefetch.ahead(inode, chunk, ROW_HERE if sparse else ROW_MISSED)
        flight = self._loader.load(chunk, self._along(inode, chunk)) if data is None else None
        self._start_all(ahead)
        if flight is None:
            assert data is not None
            self._counters.cached(place.layer, len(data))
            return data
        return self._wait_counted(place.layer, end - start, flight, given_up)[start:end]

    def _along(self, inode: int, chunk: int) -> Along:
        """Of what else a module needs more is known than that it may lie beside it."""
        is_module = self._modules.is_compiled(inode)
        return self._prefetch.beside(chunk) if is_module else self._prefetch.along(chunk)

    def _find_chunk(self, place: Chunk, start: int, end: int) -> bytes | None:
        data = self._pages.read(place.id, start, end - start)
        if data is None and place.digest is not None:
            data = self._store.read_chunk(place.digest, place.size, start, end)
        return data

    def _read_here(self, inode: int, off: int, size: int) -> bytes | None:
        """read(), of what is here."""
        parts = []
        for chunk, start, end in self._tree.cover(inode, off, size):
            place = self._tree.chunk(chunk) if chunk >= 0 else None
            tar = self._tars.get(place.layer) if place else None
            if place is None:
                data: bytes | None = bytes(end - start)
            elif tar is not None:
                data = _pread(tar, place, start, end)
            else:
                data = self._find_chunk(place, start, end)
            if data is None:
                return None
            parts.append(data)
        return b"".join(parts)

    def _start_object(self, chunk: int) -> Future[bytes] | None:
        return self._start(chunk, self._prefetch.along(chunk))

    def _start_module(self, chunk: int) -> Future[bytes] | None:
        return self._start(chunk, self._prefetch.beside(chunk))

    def _start_all(self, chunks: Sequence[int]) -> None:
        # a mount that goes away fetches nothing ahead
        with contextlib.suppress(CrfsError):
            for chunk in chunks:
                self._start(chunk)

    def _start(self, chunk: int, along: Along = NOTHING) -> Future[bytes] | None:
        """Begin to fetch a chunk that a reader will come to; None where it is here."""
        place = self._tree.chunk(chunk)
        if place.layer in self._tars or self._pages.read(chunk, 0, 1) is not None:
            return None
        if place.digest and self._store.has_chunk(place.digest):
            return None
        return self._loader.load(chunk, along, Need.LIKELY)

    def _wait_counted(
        self, layer: int, size: int, flight: Future[bytes], given_up: Callable[[], bool]
    ) -> bytes:
        """The chunk, of which the reader gets `size` bytes."""
        if flight.done():
            data = flight.result()
            self._counters.cached(layer, size)
            return data
        began, got = time.monotonic(), 0
        try:
            data = self._wait(flight, given_up)
            got = size
        finally:
            self._counters.stalled(layer, got, time.monotonic() - began)
        return data

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
