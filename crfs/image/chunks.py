"""Chunks of lazy layers: fetched once however many wait for them, decoded in a pool, verified, kept.

Any thread asks; fetching runs on the fetch loop, decoding in the pool. Nothing here waits.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor

from crfs._native.index import Chunk, Tree
from crfs._native.pagecache import PageCache
from crfs.blobs.need import Need
from crfs.blobs.network import Network
from crfs.blobs.store import Store
from crfs.errors import CrfsError, DigestMismatch, FormatError
from crfs.image.prefetch import NOTHING, Along
from crfs.layers.codec import decode_member
from crfs.layers.layer import Layer

log = logging.getLogger(__name__)
# a damaged answer is asked for once more before it is passed on
_ATTEMPTS = 2
# decoded bytes that may wait to be written to the disk cache; with more, whoever decodes writes them itself
_BACKLOG_MAX = 16 << 20
# members that nobody wants yet are decoded so many at a time, so that others come in between
_ALONG_AT_ONCE = 4


class _Begun:
    """What was begun for `count` members, and has to be ended once when all of them are done. Any thread."""

    def __init__(self, end: Callable[[], None], count: int) -> None:
        self._end = end
        self._count = count
        self._lock = threading.Lock()

    def done(self) -> None:
        """One more of them is done."""
        with self._lock:
            self._count -= 1
            last = not self._count
        if last:
            self._end()


class _Member:
    """A compressed member on its way: it is fetched, and then decoded once, by whoever comes first."""

    __slots__ = ("along", "attempt", "begun", "chunks", "claimed", "data", "flights", "need")

    def __init__(self, chunks: list[Chunk], need: Need, along: bool = False) -> None:
        self.chunks = chunks
        self.need = need
        # whether it only travels with another one
        self.along = along
        self.flights: dict[int, Future[bytes]] = {chunk.id: Future() for chunk in chunks}
        self.data: memoryview | None = None
        self.claimed = False
        self.attempt = 1
        # what tells other processes that it is being fetched
        self.begun: _Begun | None = None

    def end_flight(self) -> None:
        """Other processes may look for it, or fetch it."""
        begun, self.begun = self.begun, None
        if begun is not None:
            begun.done()

    @property
    def start(self) -> int:
        """Blob offset of its first byte."""
        return self.chunks[0].blob_off

    @property
    def end(self) -> int:
        """Blob offset behind its last byte."""
        return self.chunks[0].blob_end


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
        network: Network,
        pool: ThreadPoolExecutor,
        idle: ThreadPoolExecutor,
    ) -> None:
        self._tree = tree
        self._layers = layers
        self._pages = pages
        self._store = store
        self._network = network
        self._pool = pool
        self._idle = idle
        self._backlog = 0
        # what has come without being wanted, and is not decoded yet
        self._along: deque[_Member] = deque()
        self._lock = threading.Lock()
        # by chunk
        self._members: dict[int, _Member] = {}
        self._stopped = False
        # when a reader last came for what was not here (time.monotonic())
        self.missed = 0.0

    def stop(self) -> None:
        """Fail everything that is in flight, and refuse to load more."""
        with self._lock:
            self._stopped = True
            members = list(self._members.values())
        for member in members:
            for flight in member.flights.values():
                _settle(flight, CrfsError("the mount is going away"))

    def load(self, chunk: int, along: Along = NOTHING, need: Need = Need.READER) -> Future[bytes]:
        """The decoded chunk, and its neighbours `along` in the same request. It fails with a CrfsError.

        What is on its way already is hurried on for a reader; what has come but waits its turn is then decoded here.
        """
        if need is Need.READER:
            self.missed = time.monotonic()
        with self._lock:
            if self._stopped:
                raise CrfsError("the mount is going away")
            wanted = self._members.get(chunk)
            members = []
            if wanted is None:
                landed = self._find_landed(chunk)
                if landed is not None:
                    return landed
                members = self._claim_locked(chunk, along)
                wanted = self._members[chunk]
            late = wanted.need > need
            wanted.need, was_along, wanted.along = min(wanted.need, need), wanted.along, False
        if members:
            self._network.submit(self._fetch(members))
        elif need is Need.READER and wanted.data is not None:
            self._decode(wanted)
        elif was_along and wanted.data is not None:
            with contextlib.suppress(RuntimeError):
                self._idle.submit(self._decode, wanted)
        elif late and need is Need.READER:
            self._hurry(wanted)
        return wanted.flights[chunk]

    def _hurry(self, member: _Member) -> None:
        blob = self._layers[member.chunks[0].layer].blob
        self._network.call(lambda: self._network.ranges.hurry(blob, member.start))

    def has(self, chunk: int) -> bool:
        """Whether a chunk is here or on its way."""
        return not self._is_missing(chunk)

    async def fetch_ahead(self, chunks: Sequence[int]) -> bool:
        """Fetch chunks that lie together in a blob, in their order there; for whoever comes. Fetch loop.

        False where that failed, or nothing is wanted any more.
        """
        with self._lock:
            if self._stopped:
                return False
            members = self._claim_missing_locked(chunks, Need.LIKELY)
        return not members or await self._fetch(members)

    def load_rest(self, chunks: Sequence[int]) -> bool:
        """Fetch and keep chunks that lie together in a blob, after all that others want. Waits; a thread of its own.

        False where that failed, or nothing is wanted any more.
        """
        with self._lock:
            if self._stopped:
                return False
            members = self._claim_missing_locked(chunks, Need.REST)
        if members:
            self._network.submit(self._fetch(members))
        flights = [flight for member in members for flight in member.flights.values()]
        return all(flight.exception() is None for flight in flights)

    def _claim_missing_locked(self, chunks: Sequence[int], need: Need) -> list[_Member]:
        members = []
        for number in chunks:
            if self._is_missing(number):
                member = _Member([self._tree.chunk(part) for part in self._tree.member(number)], need)
                self._members.update((part.id, member) for part in member.chunks)
                members.append(member)
        return members

    def _find_landed(self, chunk: int) -> Future[bytes] | None:
        """A chunk that has landed since its reader looked for it."""
        if self._is_missing(chunk):
            return None
        place = self._tree.chunk(chunk)
        data = self._pages.read(chunk, 0, place.size)
        if data is None and place.digest is not None:
            data = self._store.read_chunk(place.digest, place.size, 0, place.size)
        if data is None:
            return None
        landed: Future[bytes] = Future()
        landed.set_result(data)
        return landed

    def _claim_locked(self, chunk: int, along: Along) -> list[_Member]:
        """Members to fetch, as they lie in the blob; all of their chunks are in flight now.

        Each side of `along` ends at the first that is here or on its way, so that the request stays one range
        with nothing in it that is not wanted.
        """
        before = list(itertools.takewhile(self._is_missing, along.before))
        after = list(itertools.takewhile(self._is_missing, along.after))
        members = []
        for number in (*reversed(before), chunk, *after):
            if number not in self._members:
                # else: a neighbour that shares its member with another one
                parts = [self._tree.chunk(part) for part in self._tree.member(number)]
                member = _Member(parts, Need.LIKELY, along=True)
                self._members.update((part.id, member) for part in parts)
                members.append(member)
        return members

    def _is_missing(self, chunk: int) -> bool:
        if chunk in self._members or self._pages.read(chunk, 0, 1) is not None:
            return False
        digest = self._tree.chunk(chunk).digest
        return digest is None or not self._store.has_chunk(digest)

    async def _fetch(self, members: list[_Member]) -> bool:
        """Fetch neighbouring members of one blob in one request; each is decoded as soon as it has come.

        False where they can't be had, and those who wait have been told.
        """
        left = deque(members)
        try:
            if await self._begin(left):
                await self._fetch_left(left)
        except BaseException as error:
            for member in left:
                self._fail(member, error)
            if not isinstance(error, Exception):
                raise
            return False
        return True

    async def _begin(self, left: deque[_Member]) -> bool:
        """Whether any of these members is to be fetched; what other processes fetch is waited for, and taken over."""
        flights = self._network.flights
        if flights is None or min(member.need for member in left) is Need.REST:
            return True
        name = self._layers[left[0].chunks[0].layer].name
        start, end = left[0].start, max(member.end for member in left)

        def landed() -> bool:
            for member in [member for member in left if self._is_stored(member)]:
                left.remove(member)
                self._pool.submit(self._adopt, member)
            return not left

        if not await flights.begin(name, start, end, landed):
            return False
        begun = _Begun(lambda: flights.end(name, start, end), len(left))
        for member in left:
            member.begun = begun
        return True

    def _is_stored(self, member: _Member) -> bool:
        return all(chunk.digest and self._store.has_chunk(chunk.digest) for chunk in member.chunks)

    def _adopt(self, member: _Member) -> None:
        """Publish a member that another process has fetched."""
        pieces = []
        for chunk in member.chunks:
            piece = self._store.read_chunk(chunk.digest or b"", chunk.size, 0, chunk.size)
            if piece is None:
                # it is damaged, or gone again
                self._network.submit(self._fetch([member]))
                return
            pieces.append(piece)
        self._show(member, pieces)
        self._land(member)

    async def _fetch_left(self, left: deque[_Member]) -> None:
        """Fetch members in one request; those that have come are taken from `left`."""
        blob = self._layers[left[0].chunks[0].layer].blob
        start, end = left[0].start, max(member.end for member in left)
        need = min(member.need for member in left)

        def arrived(data: memoryview) -> None:
            came = []
            while left and left[0].end - start <= len(data):
                member = left.popleft()
                member.data = data[member.start - start : member.end - start]
                came.append(member)
            self._have_decoded(came)

        again = any(member.attempt > 1 for member in left)
        await self._network.ranges.fetch(blob, start, end, need, arrived, anew=again)

    def _have_decoded(self, members: Sequence[_Member]) -> None:
        """In the pool what a reader waits for, the others behind each other, those that nobody wants last."""
        rest = []
        # the pools may have ended, and stop() has told everyone
        with contextlib.suppress(RuntimeError):
            for member in members:
                if member.need is Need.READER:
                    self._pool.submit(self._decode, member)
                elif member.along:
                    self._along.append(member)
                else:
                    rest.append(member)
            if rest:
                self._idle.submit(self._decode_all, rest)
            self._idle.submit(self._decode_along)

    def _decode_all(self, members: Sequence[_Member]) -> None:
        for member in members:
            self._decode(member)

    def _decode_along(self) -> None:
        """Some of what only travelled along; the others behind what else is to be done by now."""
        for _ in range(_ALONG_AT_ONCE):
            try:
                member = self._along.popleft()
            except IndexError:
                return
            self._decode(member)
        with contextlib.suppress(RuntimeError):
            self._idle.submit(self._decode_along)

    def _decode(self, member: _Member) -> None:
        """Inflate, verify and publish a member's chunks, unless somebody does already. Not on the loop."""
        with self._lock:
            data = member.data
            if member.claimed or data is None:
                return
            member.claimed = True
        try:
            pieces = decode_member(member.chunks, data, self._layers[member.chunks[0].layer].codec)
        except (FormatError, DigestMismatch) as error:
            self._retry(member, error)
        except BaseException as error:
            self._fail(member, error)
            raise
        else:
            self._publish(member, pieces)

    def _retry(self, member: _Member, error: CrfsError) -> None:
        """Fetch a damaged member once more; it may have been damaged on its way."""
        blob = self._layers[member.chunks[0].layer].blob
        log.warning("%s: bytes %d to %d: %s", blob.name, member.start, member.end, error)
        if member.attempt == _ATTEMPTS:
            self._fail(member, error)
            return
        with self._lock:
            member.attempt += 1
            member.data, member.claimed = None, False
        member.end_flight()
        self._network.submit(self._fetch([member]))

    def _show(self, member: _Member, pieces: list[bytes]) -> None:
        """Give a member's chunks to those who wait."""
        for chunk, piece in zip(member.chunks, pieces, strict=True):
            if member.need < Need.REST:
                self._pages.insert(chunk.id, piece)
            _settle(member.flights[chunk.id], piece)

    def _publish(self, member: _Member, pieces: list[bytes]) -> None:
        self._show(member, pieces)
        member.data = None
        size = sum(map(len, pieces))
        with self._lock:
            later = member.need is Need.READER and self._backlog + size <= _BACKLOG_MAX
            self._backlog += size
        if later:
            with contextlib.suppress(RuntimeError):
                self._idle.submit(self._keep, member, pieces, size)
                return
        self._keep(member, pieces, size)

    def _keep(self, member: _Member, pieces: list[bytes], size: int) -> None:
        for chunk, piece in zip(member.chunks, pieces, strict=True):
            if chunk.digest is not None:
                self._store.store_chunk(chunk.digest, piece)
        with self._lock:
            self._backlog -= size
        self._land(member)

    def _land(self, member: _Member) -> None:
        """A member's chunks are in flight no more, all at once: a claim must never find half of them."""
        with self._lock:
            for chunk in member.chunks:
                self._members.pop(chunk.id, None)
        member.end_flight()

    def _fail(self, member: _Member, error: BaseException) -> None:
        """Tell those who wait. The next read tries again."""
        self._land(member)
        for flight in member.flights.values():
            _settle(flight, error if isinstance(error, CrfsError) else CrfsError(repr(error)))


def _settle(flight: Future[bytes], outcome: bytes | CrfsError) -> None:
    """Give a flight its outcome, unless stop() was quicker."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, bytes):
            flight.set_result(outcome)
        else:
            flight.set_exception(outcome)
