"""Wants for byte ranges of blobs, merged into few requests and sent over few connections.

Runs on the fetch loop. A want that can't start at once waits in a queue; when a connection is free, the
oldest want of those that are needed most leaves it together with all that lie close to it in the same blob.
Bytes are handed on as they come, so that what has come is decoded while the rest travels.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from crfs.blobs.blob import Blob, SeveralRanges
from crfs.blobs.need import Need
from crfs.blobs.pace import Pace

# bytes that are read and dropped where that costs less than another request, within these bounds
GAP_MIN, GAP_MAX = 16 << 10, 128 << 10
MERGE_LIMIT = 8 << 20
# ranges of one request for what is wanted ahead; those that are larger are asked for alone
RANGES_MAX, RANGE_MAX = 24, 1 << 20
# of a round trip: for what is wanted ahead, others may yet come that lie close to it
LIKELY_WAITS = 1 / 4
CONNECTIONS = 6
# of these, for what somebody waits for alone
RESERVED = 2


# is told what has come so far, from the want's first byte on, whenever that is more
Arrived = Callable[[memoryview], None]


class _Want(Struct, eq=False):
    blob: Blob
    start: int
    end: int
    need: Need
    result: asyncio.Future[memoryview]
    arrived: Arrived | None = None
    held: bool = False


class _Batch:
    """One request under way, for `wants` in the blob's order."""

    def __init__(self, wants: list[_Want]) -> None:
        self.wants = wants
        self.start = wants[0].start
        self.end = max(want.end for want in wants)
        self._bytes = memoryview(bytearray(self.end - self.start))
        self._came = 0
        self._head = 0
        self._begun, self._first = time.monotonic(), 0.0
        self._failed = False
        # cleared while it is to stand still
        self.may_go = asyncio.Event()

    @property
    def need(self) -> Need:
        return min(want.need for want in self.wants)

    def covers(self, want: _Want) -> bool:
        """Whether the bytes of a want are among those of this request, come or yet to come."""
        if self._failed:
            # whoever was told of it may ask again before the request is gone
            return False
        return self.wants[0].blob.name == want.blob.name and self.start <= want.start and want.end <= self.end

    def join(self, want: _Want) -> None:
        """Serve one more."""
        self.wants.append(want)
        now = self.start + self._came
        if want.start < now:
            self._hand_on(want, min(now, want.end))

    def add(self, piece: bytes) -> None:
        """Hand on what has come."""
        if not self._came:
            self._first, self._head = time.monotonic(), len(piece)
        before, self._came = self.start + self._came, self._came + len(piece)
        self._bytes[before - self.start : self._came] = piece
        now = self.start + self._came
        for want in self.wants:
            if before < want.end and want.start < now:
                self._hand_on(want, min(now, want.end))

    def _hand_on(self, want: _Want, end: int) -> None:
        data = self._bytes[want.start - self.start : end - self.start]
        if want.arrived is not None and not want.result.done():
            want.arrived(data)
        if end == want.end and not want.result.done():
            want.result.set_result(data)

    def finish(self, pace: Pace) -> None:
        """All has come."""
        for want in self.wants:
            if not want.result.done():
                # of no bytes at all
                want.result.set_result(self._bytes[:0])
        if self._came and self.need < Need.REST:
            pace.answered(self._first - self._begun)
            pace.transferred(self._came - self._head, time.monotonic() - self._first)

    @property
    def position(self) -> int:
        """The offset in the blob of what comes next."""
        return self.start + self._came

    @property
    def whole(self) -> bool:
        """Whether all has come."""
        return self._came == self.end - self.start

    def fail(self, error: BaseException) -> None:
        """Tell those whose bytes have not come."""
        self._failed = True
        for want in self.wants:
            if not want.result.done():
                want.result.set_exception(error)


class RangeFetcher:
    """fetch() from any task of one loop; `connections` requests run at a time.

    More than RESERVED + 1, or what is likely waits for as long as REST, which stands still for it, has one of them.
    """

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self._free = connections
        self._queue: list[_Want] = []
        self._running: dict[asyncio.Task[None], list[_Batch]] = {}
        self._woken = False
        self._pause: asyncio.TimerHandle | None = None
        self._paces: dict[str, Pace] = {}
        # what has come before anybody wanted it
        self._held: list[_Batch] = []
        # whether nothing runs or waits but the completion of images
        self._calm = asyncio.Event()
        self._calm.set()

    async def fetch(
        self,
        blob: Blob,
        start: int,
        end: int,
        need: Need = Need.READER,
        arrived: Arrived | None = None,
        *,
        anew: bool = False,
    ) -> memoryview:
        """The bytes [start, end) of a blob; raises what `Blob.fetch_range` raises.

        LIKELY: only while no reader's want waits, and never on the last connections. REST: one at a time, while there
        is nothing else; it stands still as soon as there is. `anew`: what is on its way already won't do.
        """
        if start == end:
            # nobody need be asked
            return memoryview(b"")
        loop = asyncio.get_running_loop()
        want = _Want(blob, start, end, need, loop.create_future(), arrived)
        under_way = None if anew else next((batch for batch in self._batches() if batch.covers(want)), None)
        if under_way is None:
            self._queue.append(want)
        else:
            under_way.join(want)
        self._wake(need, self.pace(blob).round_trip * LIKELY_WAITS)
        return await want.result

    def hold(self, blob: Blob, start: int, end: int) -> None:
        """Begin to fetch bytes that will be wanted as LIKELY, and keep them until let_go()."""
        want = _Want(blob, start, end, Need.LIKELY, asyncio.get_running_loop().create_future(), held=True)
        # nobody waits for it: whoever wants the bytes finds out by himself
        want.result.add_done_callback(lambda result: result.cancelled() or result.exception())
        self._queue.append(want)
        # what is held was put together before
        self._wake(Need.READER)

    def let_go(self) -> None:
        """Whoever was to want what is held has come."""
        self._held.clear()
        for want in (*self._queue, *(want for batch in self._batches() for want in batch.wants)):
            want.held = False

    def _batches(self) -> Iterator[_Batch]:
        yield from self._under_way()
        yield from self._held

    def _under_way(self) -> Iterator[_Batch]:
        return itertools.chain.from_iterable(self._running.values())

    def _wake(self, need: Need, moment: float = 0.0) -> None:
        """After the other wants of this turn of the loop, so that they can be merged; if LIKELY, of a `moment`."""
        loop = asyncio.get_running_loop()
        if need is Need.LIKELY and self._pause is None:
            self._pause = loop.call_later(moment, self._pump)
        elif need is not Need.LIKELY and not self._woken:
            self._woken = True
            loop.call_soon(self._pump)

    def hurry(self, blob: Blob, position: int) -> None:
        """A reader waits for the byte at `position`, which was wanted with less need."""
        running = [want for batch in self._batches() for want in batch.wants]
        for want in (*self._queue, *running):
            if want.blob.name == blob.name and want.start <= position < want.end:
                want.need = Need.READER
        self._pump()

    async def calm(self) -> None:
        """Until nothing runs or waits but REST."""
        await self._calm.wait()

    def _pump(self) -> None:
        self._woken = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        # whoever has given up needs no request
        self._queue = [want for want in self._queue if not want.result.done()]
        while (first := self._next()) is not None:
            self._free -= 1
            batches = [_Batch(self._take(first)), *self._take_more(first)]
            run = self._run(batches[0]) if len(batches) == 1 else self._run_together(batches)
            task = asyncio.ensure_future(run)
            self._running[task] = batches
            task.add_done_callback(self._finish)
        needs = [want.need for want in self._queue] + [batch.need for batch in self._under_way()]
        if min(needs, default=Need.REST) < Need.REST:
            self._calm.clear()
        else:
            self._calm.set()
        for batch in self._under_way():
            if self._calm.is_set() or batch.need < Need.REST:
                batch.may_go.set()
            else:
                batch.may_go.clear()

    def _finish(self, task: asyncio.Task[None]) -> None:
        for batch in self._running.pop(task):
            if any(want.held for want in batch.wants) and not task.cancelled() and batch.whole:
                self._held.append(batch)
            if not batch.whole:
                # those of a task that was cancelled before it began must not wait for ever
                batch.fail(asyncio.CancelledError())
        self._free += 1
        self._pump()

    def _next(self) -> _Want | None:
        """The oldest want of those that may have a connection now, what is needed most first."""
        if not self._free or not self._queue:
            return None
        oldest = min(self._queue, key=lambda want: want.need)
        if oldest.need is Need.READER:
            return oldest
        if oldest.need is Need.LIKELY:
            return oldest if self._free > RESERVED else None
        return None if self._running else oldest

    def _take(self, first: _Want) -> list[_Want]:
        """A want and those that its request can carry along, in the blob's order."""
        near = sorted(
            (want for want in self._queue if self._may_join(want, first)),
            key=lambda want: want.start,
        )
        gap = min(max(self.pace(first.blob).gap, GAP_MIN), GAP_MAX)
        at = near.index(first)
        batch, start, end = [first], first.start, first.end
        for want in near[at + 1 :]:
            if want.start - end > gap or max(want.end, end) - start > MERGE_LIMIT:
                break
            batch.append(want)
            end = max(want.end, end)
        for want in reversed(near[:at]):
            if want.need > first.need and want.end <= start:
                # its bytes would come before those that are needed more
                break
            if start - want.end > gap or max(want.end, end) - want.start > MERGE_LIMIT:
                break
            batch.insert(0, want)
            start, end = want.start, max(want.end, end)
        self._queue = [want for want in self._queue if want not in batch]
        return batch

    def _take_more(self, first: _Want) -> Iterator[_Batch]:
        """What else is wanted ahead of a blob, in small ranges that can be asked for in the same request."""
        blob = first.blob
        if not (self._is_small(first, first) and isinstance(blob, SeveralRanges) and blob.gives_several):
            return
        for _ in range(RANGES_MAX - 1):
            more = next((want for want in self._queue if self._is_small(want, first)), None)
            if more is None:
                return
            yield _Batch(self._take(more))

    def _is_small(self, want: _Want, first: _Want) -> bool:
        both_small = max(want.end - want.start, first.end - first.start) <= RANGE_MAX
        return both_small and want.need is Need.LIKELY and want.blob.name == first.blob.name

    def _may_join(self, want: _Want, first: _Want) -> bool:
        """Whether a want may travel with `first`: the completion of an image holds up nobody."""
        return want.blob.name == first.blob.name and (want.need is Need.REST) == (first.need is Need.REST)

    def pace(self, blob: Blob) -> Pace:
        """How quickly the server that has this blob answers."""
        host = blob.name.partition("/")[0]
        return self._paces.setdefault(host, Pace())

    async def _run_together(self, batches: list[_Batch]) -> None:
        """In one request, and in one each what that does not bring."""
        blob = batches[0].wants[0].blob
        assert isinstance(blob, SeveralRanges)
        by_place = {batch.start: batch for batch in batches}

        def sink(off: int, piece: bytes) -> None:
            batch = by_place.pop(off)
            batch.add(piece)
            if not batch.whole:
                by_place[batch.position] = batch

        try:
            await blob.stream_ranges(sorted((batch.start, batch.end) for batch in batches), sink)
        except BaseException as error:
            for batch in batches:
                batch.fail(error)
            raise
        for batch in batches:
            if batch.whole:
                batch.finish(self.pace(blob))
        few = asyncio.Semaphore(CONNECTIONS - RESERVED)

        async def run(batch: _Batch) -> None:
            async with few:
                await self._run(batch)

        await asyncio.gather(*(run(batch) for batch in batches if not batch.whole))

    async def _run(self, batch: _Batch) -> None:
        async def sink(piece: bytes) -> None:
            batch.add(piece)
            await batch.may_go.wait()

        blob = batch.wants[0].blob
        try:
            await blob.stream_range(batch.position, batch.end, sink)
        except BaseException as error:
            # also CancelledError: whoever waits must not wait for ever
            batch.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            batch.finish(self.pace(blob))
