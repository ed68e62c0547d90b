"""The network, made when it is first needed: a mount of an image that is all in the cache never loads aiohttp.

Any thread.
"""

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crfs.blobs.blob import Blob, PlacedSink, SeveralRanges, Sink

if TYPE_CHECKING:
    from crfs.blobs.fetchloop import FetchLoop
    from crfs.blobs.flights import Flights
    from crfs.blobs.http import Http
    from crfs.blobs.ranges import RangeFetcher
    from crfs.blobs.transport import Stats

T = TypeVar("T")
_CLOSE_SECONDS = 2.0


class Network:
    """The fetch thread, its connections, and what merges requests. close() ends what was begun.

    `shared` is the cache that other processes use too: none fetches what another one does.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self._flights: Flights | None = None
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False
        self._loop: FetchLoop | None = None
        self._http: Http | None = None
        self._ranges: RangeFetcher | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the fetch thread; see FetchLoop.submit(). After close() it is cancelled."""
        with self._lock:
            if self._closed:
                coroutine.close()
                return _cancelled()
            if self._loop is None:
                from crfs.blobs.fetchloop import FetchLoop

                self._loop = FetchLoop()
                self._loop.start()
            return self._loop.submit(coroutine)

    @property
    def http(self) -> "Http":
        """The one session. Fetch loop, or before anything was submitted."""
        if self._http is None:
            from crfs.blobs.http import Http

            self._http = Http()
        return self._http

    @http.setter
    def http(self, http: "Http") -> None:
        self._http = http

    @property
    def stats(self) -> "Stats | None":
        """What has been sent and received; None while nothing has. Any thread."""
        return self._http.stats if self._http is not None else None

    @property
    def ranges(self) -> "RangeFetcher":
        """What merges wants of bytes into requests. Fetch loop."""
        if self._ranges is None:
            from crfs.blobs.ranges import RangeFetcher

            self._ranges = RangeFetcher()
        return self._ranges

    @property
    def flights(self) -> "Flights | None":
        """What this process and others fetch into the cache that they share. Fetch loop."""
        if self._flights is None and self._shared is not None:
            from crfs.blobs.flights import Flights

            self._flights = Flights(self._shared)
        return self._flights

    def call(self, work: Callable[[], object]) -> None:
        """Have something done on the fetch thread, if there is one."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call(work)

    def give_up(self) -> None:
        """What is being fetched or sent fails at once; more may be asked for. Any thread, handlers of signals too."""
        # no lock: who has been interrupted may hold it
        if self._loop is not None and not self._closed:
            self._loop.give_up()

    def close(self) -> None:
        """End the thread and the connections; what still waits fails. May be repeated, also meanwhile."""
        with self._closing:
            with self._lock:
                was_closed, self._closed = self._closed, True
            if self._loop is None or was_closed:
                return
            if self._http is not None:
                _quietly(self._loop.submit(self._http.close()))
            self._loop.close()
            if self._flights is not None:
                self._flights.close()


def _cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


def _quietly(closing: Future[None]) -> None:
    try:
        closing.result(_CLOSE_SECONDS)
    except TimeoutError:
        return


class LateBlob:
    """A blob (see `Blob`) that `opener` opens when something of it is first wanted."""

    def __init__(self, name: str, opener: Callable[[], Blob]) -> None:
        self._name = name
        self._opener = opener
        self._blob: Blob | None = None

    @property
    def name(self) -> str:
        return self._name

    def _open(self) -> Blob:
        if self._blob is None:
            self._blob = self._opener()
        return self._blob

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        return await self._open().fetch_range(start, end)

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """See `Blob.stream_range`."""
        await self._open().stream_range(start, end, sink)

    @property
    def gives_several(self) -> bool:
        """See `SeveralRanges.gives_several`."""
        blob = self._open()
        return isinstance(blob, SeveralRanges) and blob.gives_several

    async def stream_ranges(self, ranges: Sequence[tuple[int, int]], sink: PlacedSink) -> None:
        """See `SeveralRanges.stream_ranges`."""
        blob = self._open()
        if isinstance(blob, SeveralRanges):
            await blob.stream_ranges(ranges, sink)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """See `Blob.fetch_tail`."""
        return await self._open().fetch_tail(size)

    def iter_body(self) -> AsyncIterator[bytes]:
        """See `Blob.iter_body`."""
        return self._open().iter_body()

    def close(self) -> None:
        """See `Blob.close`."""
        if self._blob is not None:
            self._blob.close()
