"""Wants for byte ranges of blobs, merged into few requests and sent over few connections.

Runs on the fetch loop. A want that can't start at once waits in a queue; when a connection is free, the
oldest want of those that somebody waits for leaves it together with all that lie close to it in the same blob.
"""

import asyncio

from msgspec import Struct

from crfs.blobs.blob import Blob

# bytes that are cheaper to read and drop than another request is to make
MERGE_GAP = 32 << 10
MERGE_LIMIT = 8 << 20
CONNECTIONS = 6
# of these, for what somebody waits for alone
RESERVED = 2


class _Want(Struct, frozen=True):
    blob: Blob
    start: int
    end: int
    urgent: bool
    result: asyncio.Future[bytes]


class RangeFetcher:
    """fetch() from any task of one loop; `connections` requests run at a time."""

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self._free = connections
        self._queue: list[_Want] = []
        self._running: set[asyncio.Task[None]] = set()
        self._woken = False

    async def fetch(self, blob: Blob, start: int, end: int, *, urgent: bool = True) -> bytes:
        """The bytes [start, end) of a blob; raises what `Blob.fetch_range` raises.

        Not `urgent`: only while nothing urgent waits, and never on the last connections.
        """
        loop = asyncio.get_running_loop()
        want = _Want(blob, start, end, urgent, loop.create_future())
        self._queue.append(want)
        if not self._woken:
            # after the other wants of this turn of the loop, so that they can be merged
            self._woken = True
            loop.call_soon(self._pump)
        return await want.result

    def _pump(self) -> None:
        self._woken = False
        # whoever has given up needs no request
        self._queue = [want for want in self._queue if not want.result.done()]
        while (first := self._next()) is not None:
            self._free -= 1
            task = asyncio.ensure_future(self._run(self._take(first)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> _Want | None:
        """The oldest want of those that may have a connection now, urgent ones first."""
        if not self._free or not self._queue:
            return None
        oldest = next((want for want in self._queue if want.urgent), self._queue[0])
        return oldest if oldest.urgent or self._free > RESERVED else None

    def _take(self, first: _Want) -> list[_Want]:
        """A want and those that its request can carry along, in the blob's order."""
        near = sorted((want for want in self._queue if want.blob is first.blob), key=lambda want: want.start)
        at = near.index(first)
        batch, start, end = [first], first.start, first.end
        for want in near[at + 1 :]:
            if not _joins(want.start, end) or max(want.end, end) - start > MERGE_LIMIT:
                break
            batch.append(want)
            end = max(want.end, end)
        for want in reversed(near[:at]):
            if not _joins(start, want.end) or max(want.end, end) - want.start > MERGE_LIMIT:
                break
            batch.insert(0, want)
            start, end = want.start, max(want.end, end)
        self._queue = [want for want in self._queue if want not in batch]
        return batch

    async def _run(self, batch: list[_Want]) -> None:
        start, end = batch[0].start, max(want.end for want in batch)
        try:
            data = await batch[0].blob.fetch_range(start, end)
        except BaseException as error:
            # also CancelledError: whoever waits must not wait for ever
            for want in batch:
                if not want.result.done():
                    want.result.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            view = memoryview(data)
            for want in batch:
                if not want.result.done():
                    piece = data if len(batch) == 1 else bytes(view[want.start - start : want.end - start])
                    want.result.set_result(piece)
        finally:
            self._free += 1
            self._pump()


def _joins(start: int, end: int) -> bool:
    """Whether a range that begins at `start` is close enough behind one that ends at `end`."""
    return start - end <= MERGE_GAP
