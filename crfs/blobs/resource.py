"""One resource of an HTTP server, read by ranges (RFC 9110, section 14). Fetch loop only.

Servers differ: some ignore Range and send everything, some send less than asked, some cut the connection.
What arrived is kept, what is missing is asked for again, and the bytes handed out are those asked for.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from crfs.blobs.blob import PlacedSink, Sink
from crfs.blobs.http import Http, Response
from crfs.blobs.multipart import Parts, parse_boundary
from crfs.blobs.transport import RetryPolicy, TransientError, translated
from crfs.errors import CrfsError, TransportError

logger = logging.getLogger(__name__)

# bytes that have to arrive before a failure counts as the first one again
PROGRESS_MIN = 32 << 10

_CONTENT_RANGE = re.compile(r"bytes\s+(?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)", re.ASCII)


class Opener(Protocol):
    """Asks for the resource with some headers; any status may come back."""

    def __call__(self, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Response]: ...


class ContentRange(Struct, frozen=True):
    """`bytes FIRST-LAST/TOTAL`, LAST inclusive; None for what the server left open."""

    first: int | None
    last: int | None
    total: int | None


def parse_content_range(text: str | None) -> ContentRange | None:
    """The Content-Range header; None when it is missing or malformed (multipart answers have none)."""
    match = _CONTENT_RANGE.fullmatch((text or "").strip())
    if match is None:
        return None
    first, last, total = (None if part in (None, "*") else int(part) for part in match.groups())
    if first is not None and last is not None and (last < first or (total is not None and last >= total)):
        return None
    return ContentRange(first, last, total)


class HttpResource:
    """`size` in bytes, where it is known beforehand. `pinned`: a change of the ETag is an error.

    `retry` is the policy where it is not the session's.
    """

    def __init__(
        self,
        http: Http,
        name: str,
        opener: Opener,
        size: int | None,
        *,
        pinned: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http = http
        self._name = name
        self._open = opener
        self._size = size
        self._pinned = pinned
        self._retry = retry
        self._etag: str | None = None
        self._warned = False
        self._host = name.partition("/")[0]
        # its digest, of a registry's
        _, at, digest = name.rpartition("@sha")
        self._blob = f"sha{digest}" if at else name

    async def fetch_range(self, start: int, end: int) -> bytes:
        """Exactly the bytes of [start, end); see `Blob.fetch_range`."""
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(piece)

        await self.stream_range(start, end, keep)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """The same, as it comes; see `Blob.stream_range`."""
        if not 0 <= start <= end:
            raise ValueError(f"not a range: [{start}, {end})")
        if self._size is not None and end > self._size:
            raise TransportError(f"{self._name}: asked for bytes up to {end} of {self._size}")
        retries = self._http.retries(self._retry)
        position = start

        async def count(piece: bytes) -> None:
            nonlocal position
            position += len(piece)
            await sink(piece)

        while position < end:
            before = position
            try:
                await self._fetch_some(position, end, count)
            except TransientError as error:
                if position - before >= PROGRESS_MIN:
                    retries.progressed()
                await retries.wait(error)

    @property
    def gives_several(self) -> bool:
        """See `SeveralRanges.gives_several`."""
        return self._host not in self._http.one_range

    async def stream_ranges(self, ranges: Sequence[tuple[int, int]], sink: PlacedSink) -> None:
        """What comes of several ranges; see `SeveralRanges.stream_ranges`."""
        spans = ",".join(f"{start}-{_last(end)}" for start, end in ranges)
        try:
            size = sum(end - start for start, end in ranges)
            with translated(f"{self._name}: {len(ranges)} ranges"):
                async with (
                    asyncio.timeout(self._http.limits.span_seconds(size)),
                    self._open({"Range": f"bytes={spans}"}) as response,
                ):
                    await self._hand_on_parts(response, dict(ranges), sink)
        except CrfsError as error:
            # whoever wants the rest finds out by himself
            logger.info("%s", error)

    async def _hand_on_parts(self, response: Response, missing: dict[int, int], sink: PlacedSink) -> None:
        """The parts of an answer; `missing` are ends of ranges by what is to come next of them."""
        boundary = parse_boundary(response.headers.get("Content-Type"))
        if response.status != 206 or boundary is None:
            if response.status in (200, 206):
                self._http.one_range.add(self._host)
            return
        self._check_pin(response)
        parts = Parts(boundary)
        async with contextlib.aclosing(response.iter_body()) as pieces:
            async for piece in pieces:
                self._http.stats.received_of(self._blob, len(piece))
                for off, part in parts.feed(piece):
                    end = missing.pop(off, 0)
                    if off + len(part) > end:
                        raise TransportError(f"{response.what}: bytes from {off} on, which nobody asked for")
                    if off + len(part) < end:
                        missing[off + len(part)] = end
                    sink(off, part)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """The last min(size, total) bytes and the total; see `Blob.fetch_tail`."""
        if self._size is None:
            found = await self._http.retrying(lambda: self._fetch_suffix(max(size, 1)), self._retry)
            if found is not None:
                return found[len(found) - min(size, len(found)) :], self._known_size()
        total = self._known_size()
        start = max(0, total - size)
        return await self.fetch_range(start, total), total

    async def iter_body(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Everything from `start` on, in order; see `Blob.iter_body`."""
        position = failed_at = start
        retries = self._http.retries(self._retry)
        while self._size is None or position < self._size:
            try:
                async with contextlib.aclosing(self._iter_from(position, None)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                if self._size is None:
                    self._size = position  # sent without a length, and the end was marked as one
                elif position < self._size:
                    raise TransientError(f"{self._name}: ended after {position} of {self._size} bytes")
            except TransientError as error:
                if position - failed_at >= PROGRESS_MIN:
                    retries.progressed()
                failed_at = position
                await retries.wait(error)

    async def _fetch_some(self, start: int, end: int, sink: Sink) -> None:
        """One attempt at [start, end); TransientError when it brings less."""
        position = start
        with translated(f"{self._name}: bytes {start} to {end}"):
            async with asyncio.timeout(self._http.limits.span_seconds(end - start)):
                async with contextlib.aclosing(self._iter_from(start, end)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        await sink(piece)
        if position < end:
            raise TransientError(f"{self._name}: {position - start} of {end - start} bytes arrived")

    async def _iter_from(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """One request: the bytes from `start` on, at most to `end` (None: all); may stop early."""
        headers = {} if start == 0 and end is None else {"Range": f"bytes={start}-{_last(end)}"}
        async with self._open(headers) as response:
            position = await self._begin(response, start, end)
            async with contextlib.aclosing(response.iter_body()) as pieces:
                async for piece in pieces:
                    self._http.stats.received_of(self._blob, len(piece))
                    skip = max(0, start - position)
                    position += len(piece)
                    self._check_length(position)
                    kept = piece[skip : len(piece) - max(0, position - end) if end is not None else None]
                    if kept:
                        yield kept
                    if end is not None and position >= end:
                        return

    async def _begin(self, response: Response, start: int, end: int | None) -> int:
        """The offset in the resource of the answer's first byte, which is at or before `start`."""
        if response.status == 416:
            raise TransportError(f"{response.what}: the server has no bytes at {start} (416)")
        await response.check(200, 206)
        self._check_pin(response)
        if response.status == 200:
            if response.length is not None:
                self._learn_size(response, response.length)
            if start > 0 or (end is not None and end != self._size):
                self._warn_whole(response)
            first = 0
        else:
            first = self._check_range(response, start)
        if end is not None and self._size is not None and end > self._size:
            raise TransportError(f"{response.what}: asked for bytes up to {end} of {self._size}")
        return first

    def _check_range(self, response: Response, start: int) -> int:
        """The first offset of a 206; TransientError unless it covers `start`."""
        text = response.headers.get("Content-Range")
        found = parse_content_range(text)
        if found is None or found.first is None or found.last is None:
            raise TransientError(f"{response.what}: a partial answer with the Content-Range {text!r}")
        if not found.first <= start <= found.last:
            raise TransientError(f"{response.what}: asked for bytes from {start} on, got {text!r}")
        if found.total is not None:
            self._learn_size(response, found.total)
        return found.first

    async def _fetch_suffix(self, size: int) -> bytes | None:
        """The last `size` bytes, asked for as such; None when only the total could be learnt."""
        async with self._open({"Range": f"bytes=-{size}"}) as response:
            found = parse_content_range(response.headers.get("Content-Range"))
            if response.status == 416:
                return await self._learn_from_refusal(response, found)
            await response.check(200, 206)
            self._check_pin(response)
            if response.status == 200:
                return await self._read_end(response, size)
            if found is None or found.total is None:
                raise TransientError(f"{response.what}: a partial answer that does not tell the total size")
            self._learn_size(response, found.total)
            if (found.first, found.last) != (max(0, found.total - size), found.total - 1):
                return None
            body = await response.read(size)
            self._http.stats.received_of(self._blob, len(body))
            if len(body) != min(size, found.total):
                raise TransientError(f"{response.what}: the answer was cut short")
            return body

    async def _learn_from_refusal(self, response: Response, found: ContentRange | None) -> bytes | None:
        """After 416 to a suffix: an empty resource, or a server that knows no suffixes."""
        if found is not None and found.total is not None:
            self._learn_size(response, found.total)
            return b"" if found.total == 0 else None
        async with self._open({"Range": "bytes=0-0"}) as probe:
            await probe.check(200, 206)
            told = parse_content_range(probe.headers.get("Content-Range"))
            total = probe.length if probe.status == 200 else told.total if told else None
            if total is None:
                raise TransportError(f"{probe.what}: the server does not tell the size")
            self._learn_size(probe, total)
        return None

    async def _read_end(self, response: Response, size: int) -> bytes:
        """The last `size` bytes of an answer with everything; holds no more than it has to."""
        self._warn_whole(response)
        tail = bytearray()
        total = 0
        async with contextlib.aclosing(response.iter_body()) as pieces:
            async for piece in pieces:
                self._http.stats.received_of(self._blob, len(piece))
                total += len(piece)
                tail += piece
                if len(tail) > 2 * size + (1 << 20):
                    del tail[:-size]
        self._learn_size(response, total)
        return bytes(tail[-size:])

    def _known_size(self) -> int:
        if self._size is None:
            raise TransportError(f"{self._name}: the server does not tell the size")
        return self._size

    def _learn_size(self, response: Response, total: int) -> None:
        if self._size is None:
            self._size = total
        elif self._size != total:
            raise TransportError(f"{response.what}: has {total} bytes, not {self._size}")

    def _check_length(self, position: int) -> None:
        if self._size is not None and position > self._size:
            raise TransportError(f"{self._name}: more than {self._size} bytes arrived")

    def _check_pin(self, response: Response) -> None:
        etag = response.headers.get("ETag")
        if not self._pinned or not etag:
            return
        if self._etag is None:
            self._etag = etag
        elif self._etag != etag:
            raise TransportError(f"{self._name}: changed on the server while it was being read")

    def _warn_whole(self, response: Response) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: the server ignores Range and sends everything; reads will be slow", response.what
            )


def _last(end: int | None) -> str:
    return "" if end is None else str(end - 1)
