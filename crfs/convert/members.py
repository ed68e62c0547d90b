"""The compressed side of a layer: one tar, written as members that begin where the writer says.

Members are compressed and their chunks hashed in a pool, and written in their order by the thread that feeds them.
What waits is bounded, so that memory is, however long the layer and slow the target.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Protocol

from msgspec import Struct

from crfs.convert.packing import Pack

# members are handed to the pool together until they hold so much: for a small one, that costs more than packing it
_TOGETHER = 256 << 10
# uncompressed bytes that may wait for the pool or for the target; a member may be larger, and waits alone then
BACKLOG = 16 << 20


class Sink(Protocol):
    """Where a blob goes."""

    def write(self, data: bytes, /) -> object: ...


class Placed(Struct, frozen=True):
    """Where a chunk has come to lie: its member's blob offsets, and its place in the member; its SHA-256."""

    start: int
    end: int
    inner_off: int
    digest: str


class _Mark(Struct, frozen=True):
    """A chunk of an open member, and who wants to know where it is."""

    inner_off: int
    size: int
    tell: Callable[[Placed], None]


class _Member(Struct, frozen=True):
    data: bytes
    marks: Sequence[_Mark]


class _Packed(Struct, frozen=True):
    """A member's compressed bytes, and the digests of its chunks."""

    data: bytes
    digests: list[str]


class _Batch(Struct, frozen=True):
    members: Sequence[_Member]
    size: int
    packed: "Future[list[_Packed]]"


class MemberWriter:
    """Writes to `out`, and knows where it is. `pack` runs in `pool`, or where that is None, at once."""

    def __init__(self, out: Sink, pack: Pack, pool: Executor | None = None) -> None:
        self._out = out
        self._pack = pack
        self._pool = pool
        self._blob = hashlib.sha256()
        self._tar = hashlib.sha256()
        self._open: list[bytes] = []
        self._marks: list[_Mark] = []
        self._closed: list[_Member] = []
        self._closed_size = 0
        self._under_way: deque[_Batch] = deque()
        self._backlog = 0
        self.size = 0
        self.inner_off = 0
        self.members = 0
        self.uncompressed_size = 0

    @property
    def digest(self) -> str:
        """The digest of the blob so far; flush() first."""
        return f"sha256:{self._blob.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """The digest of the tar so far; flush() first."""
        return f"sha256:{self._tar.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Add to the tar, in the open member, or in a new one where none is."""
        if data:
            self._open.append(data)
            self.inner_off += len(data)
            self.uncompressed_size += len(data)

    def mark(self, size: int, tell: Callable[[Placed], None]) -> None:
        """The next `size` bytes, all of them written before the member is cut, are a chunk.

        `tell` is called once it is written, in the thread that feeds the writer.
        """
        self._marks.append(_Mark(self.inner_off, size, tell))

    def cut(self) -> None:
        """End the open member, if there is one."""
        if not self._open:
            return
        data = self._open[0] if len(self._open) == 1 else b"".join(self._open)
        # here, and not piece by piece: each time the GIL is let go, and has to be got back
        self._tar.update(data)
        self._closed.append(_Member(data, self._marks))
        self._closed_size += self.inner_off
        self._open, self._marks, self.inner_off = [], [], 0
        self.members += 1
        if self._closed_size >= _TOGETHER:
            self._hand_over()

    def flush(self) -> None:
        """End the open member, and wait until all are written."""
        self.cut()
        self._hand_over()
        while self._under_way:
            self._settle()

    def _hand_over(self) -> None:
        """Have the closed members packed."""
        members, size, pack = self._closed, self._closed_size, self._pack
        if not members:
            return
        while self._under_way and self._backlog + size > BACKLOG:
            self._settle()
        packed = _run(self._pool, lambda: [_packed(pack, member) for member in members])
        self._under_way.append(_Batch(members, size, packed))
        self._backlog += size
        self._closed, self._closed_size = [], 0
        while self._under_way and self._under_way[0].packed.done():
            self._settle()

    def write_packed(self, data: bytes) -> int:
        """Add to the blob what is no part of the tar; the blob offset where it begins."""
        self.flush()
        start = self.size
        self._emit(data)
        return start

    def _settle(self) -> None:
        """Write the oldest members that are under way."""
        batch = self._under_way.popleft()
        for member, packed in zip(batch.members, batch.packed.result(), strict=True):
            start = self.size
            self._emit(packed.data)
            for mark, digest in zip(member.marks, packed.digests, strict=True):
                mark.tell(Placed(start, self.size, mark.inner_off, digest))
        self._backlog -= batch.size

    def _emit(self, data: bytes) -> None:
        self._blob.update(data)
        self.size += len(data)
        self._out.write(data)


def _packed(pack: Pack, member: _Member) -> _Packed:
    return _Packed(pack(member.data), _digests(member.data, member.marks))


def _digests(data: bytes, marks: Sequence[_Mark]) -> list[str]:
    view = memoryview(data)
    spans = (view[mark.inner_off : mark.inner_off + mark.size] for mark in marks)
    return [f"sha256:{hashlib.sha256(span).hexdigest()}" for span in spans]


def _run(pool: Executor | None, work: Callable[[], list[_Packed]]) -> "Future[list[_Packed]]":
    if pool is not None:
        return pool.submit(work)
    done: Future[list[_Packed]] = Future()
    done.set_result(work())
    return done
