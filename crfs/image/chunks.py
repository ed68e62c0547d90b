"""Chunks of lazy layers: fetched once however many wait for them, decoded in a pool, verified, kept.

Any thread asks; fetching runs on the fetch loop, decoding in the pool. Nothing here waits.
"""

import contextlib
import itertools
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor

from crfs._native.index import Chunk, Tree
from crfs._native.inflate import check_sha256, inflate
from crfs._native.pagecache import PageCache
from crfs.blobs.fetchloop import FetchLoop
from crfs.blobs.ranges import RangeFetcher
from crfs.blobs.store import Store
from crfs.errors import CrfsError, DigestMismatch, FormatError
from crfs.image.prefetch import NOTHING, Along
from crfs.layers.layer import Layer

log = logging.getLogger(__name__)
# a damaged answer is asked for once more before it is passed on
_ATTEMPTS = 2
# decoded bytes that may wait to be written to the disk cache; with more, whoever decodes writes them itself
_BACKLOG_MAX = 16 << 20


class ChunkLoader:
    """load() chunks of one tree; `pages` and `store` are given what arrives.

    `pool` decodes what a reader waits for; `idle`, a single thread, its neighbours, and writes to the store.
    """

    def __init__(
        self,
        tree: Tree,
        layers: Sequence[Layer],
        pages: PageCache,
        store: Store,
        loop: FetchLoop,
        ranges: RangeFetcher,
        pool: ThreadPoolExecutor,
        idle: ThreadPoolExecutor,
    ) -> None:
        self._tree = tree
        self._layers = layers
        self._pages = pages
        self._store = store
        self._loop = loop
        self._ranges = ranges
        self._pool = pool
        self._idle = idle
        self._backlog = 0
        self._lock = threading.Lock()
        self._flights: dict[int, Future[bytes]] = {}
        self._stopped = False

    def stop(self) -> None:
        """Fail everything that is in flight, and refuse to load more."""
        with self._lock:
            self._stopped = True
            flights = list(self._flights.values())
        for flight in flights:
            _settle(flight, CrfsError("the mount is going away"))

    def load(self, chunk: int, along: Along = NOTHING) -> Future[bytes]:
        """The decoded chunk, and its neighbours `along` in the same request. It fails with a CrfsError."""
        with self._lock:
            if self._stopped:
                raise CrfsError("the mount is going away")
            flight = self._flights.get(chunk)
            if flight is not None:
                return flight
            members = self._claim_locked(chunk, along)
            flight = self._flights[chunk]
        self._loop.submit(self._fetch(members, chunk))
        return flight

    def _claim_locked(self, chunk: int, along: Along) -> list[list[Chunk]]:
        """Members to fetch, as they lie in the blob, each with all of its chunks; they are in flight now.

        Each side of `along` ends at the first that is here or on its way, so that the request stays one range
        with nothing in it that is not wanted.
        """
        before = list(itertools.takewhile(self._is_missing, along.before))
        after = list(itertools.takewhile(self._is_missing, along.after))
        members = []
        for number in (*reversed(before), chunk, *after):
            if number in self._flights:
                # a neighbour that shares its member with another one
                continue
            parts = [self._tree.chunk(part) for part in self._tree.member(number)]
            self._flights.update((part.id, Future()) for part in parts)
            members.append(parts)
        return members

    def _is_missing(self, chunk: int) -> bool:
        if chunk in self._flights or self._pages.read(chunk, 0, 1) is not None:
            return False
        digest = self._tree.chunk(chunk).digest
        return digest is None or not self._store.has_chunk(digest)

    async def _fetch(self, members: list[list[Chunk]], wanted: int, attempt: int = 1) -> None:
        """Fetch neighbouring members of one blob in one request; that of the `wanted` chunk is urgent."""
        layer = self._layers[members[0][0].layer]
        start, end = members[0][0].blob_off, members[-1][0].blob_end
        try:
            data = memoryview(await self._ranges.fetch(layer.blob, start, end))
        except BaseException as error:
            for member in members:
                self._fail(member, error)
            if not isinstance(error, Exception):
                raise
            return
        for member in members:
            piece = data[member[0].blob_off - start : member[0].blob_end - start]
            urgent = any(chunk.id == wanted for chunk in member)
            with contextlib.suppress(RuntimeError):
                # the pools have ended, and stop() has told everyone
                (self._pool if urgent else self._idle).submit(self._decode, member, piece, attempt, urgent)

    def _decode(self, member: list[Chunk], data: memoryview, attempt: int, urgent: bool) -> None:
        """Inflate, verify and publish a member's chunks. Runs in a pool; no exception leaves it."""
        try:
            pieces = decode_member(member, data)
        except (FormatError, DigestMismatch) as error:
            layer = self._layers[member[0].layer]
            log.warning(
                "%s: bytes %d to %d: %s", layer.blob.name, member[0].blob_off, member[0].blob_end, error
            )
            if attempt < _ATTEMPTS:
                self._loop.submit(self._fetch([member], member[0].id, attempt + 1))
            else:
                self._fail(member, error)
        except BaseException as error:
            self._fail(member, error)
            raise
        else:
            self._publish(member, pieces, urgent)

    def _publish(self, member: list[Chunk], pieces: list[bytes], urgent: bool) -> None:
        for chunk, piece in zip(member, pieces, strict=True):
            self._pages.insert(chunk.id, piece)
            _settle(self._flights[chunk.id], piece)
        size = sum(map(len, pieces))
        with self._lock:
            urgent = urgent and self._backlog + size <= _BACKLOG_MAX
            self._backlog += size
        with contextlib.suppress(RuntimeError):
            if urgent:
                self._idle.submit(self._keep, member, pieces, size)
                return
        self._keep(member, pieces, size)

    def _keep(self, member: list[Chunk], pieces: list[bytes], size: int) -> None:
        for chunk, piece in zip(member, pieces, strict=True):
            if chunk.digest is not None:
                self._store.store_chunk(chunk.digest, piece)
        with self._lock:
            self._backlog -= size
        self._land(member)

    def _land(self, member: list[Chunk]) -> list[Future[bytes]]:
        """A member's chunks are in flight no more, all at once: a claim must never find half of them."""
        with self._lock:
            return [self._flights.pop(chunk.id) for chunk in member]

    def _fail(self, member: list[Chunk], error: BaseException) -> None:
        """Tell those who wait. The next read tries again."""
        for flight in self._land(member):
            _settle(flight, error if isinstance(error, CrfsError) else CrfsError(repr(error)))


def _settle(flight: Future[bytes], outcome: bytes | CrfsError) -> None:
    """Give a flight its outcome, unless stop() was quicker."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, bytes):
            flight.set_result(outcome)
        else:
            flight.set_exception(outcome)


def decode_member(member: list[Chunk], data: memoryview) -> list[bytes]:
    """The verified bytes of each chunk in one compressed member.

    FormatError where it does not inflate, DigestMismatch where a chunk is not what its digest names.
    """
    if len(member) == 1 and member[0].inner_off == 0:
        return [inflate(data, member[0].size, member[0].digest)]
    whole = memoryview(inflate(data, max(chunk.inner_off + chunk.size for chunk in member)))
    pieces = [bytes(whole[chunk.inner_off : chunk.inner_off + chunk.size]) for chunk in member]
    for chunk, piece in zip(member, pieces, strict=True):
        if chunk.digest is not None:
            check_sha256(piece, chunk.digest)
    return pieces
