"""Bodies in pieces: blobs out and uploads in, with bounded memory. Loop thread only."""

import asyncio
from pathlib import Path
from typing import BinaryIO

from aiohttp import web
from msgspec import Struct

from crfs.registry.files import Appender, Source
from crfs.registry.ranges import Span
from crfs.registry.refusal import Refusal

_PIECE = 1 << 20


class Counters(Struct, frozen=True):
    """What a registry has answered: requests, and bytes of response bodies (headers not included)."""

    requests: int = 0
    bytes_sent: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        """Both together."""
        return Counters(self.requests + other.requests, self.bytes_sent + other.bytes_sent)

    def __sub__(self, earlier: "Counters") -> "Counters":
        """What came since `earlier`."""
        return Counters(self.requests - earlier.requests, self.bytes_sent - earlier.bytes_sent)


class Meter:
    """The one place where counters grow. The loop thread writes, any thread reads."""

    def __init__(self) -> None:
        self.counters = Counters()

    def add(self, *, requests: int = 0, bytes_sent: int = 0) -> None:
        """Count that many more."""
        now = self.counters
        self.counters = Counters(now.requests + requests, now.bytes_sent + bytes_sent)


async def send_span(
    request: web.Request, response: web.StreamResponse, source: Source, span: Span, meter: Meter
) -> None:
    """Send the headers of `response`, with the length, then `span` of `source` unless HEAD was asked."""
    response.content_length = span.size
    await response.prepare(request)
    if request.method == "HEAD":
        return
    if isinstance(source.content, Path):
        with source.content.open("rb") as file:
            await _send_file(request, file, span, meter)
    else:
        await _send_memory(response, memoryview(source.content), span, meter)
    await response.write_eof()


async def _send_file(request: web.Request, file: BinaryIO, span: Span, meter: Meter) -> None:
    for start, size in _pieces(span):
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        # before they go: who has received bytes finds them counted
        meter.add(bytes_sent=size)
        if await asyncio.get_running_loop().sendfile(transport, file, start, size) < size:
            # somebody cut the file off: the client must not wait for the rest
            transport.abort()
            raise ConnectionAbortedError("a stored blob ends early")


async def _send_memory(response: web.StreamResponse, content: memoryview, span: Span, meter: Meter) -> None:
    for start, size in _pieces(span):
        meter.add(bytes_sent=size)
        await response.write(content[start : start + size])


def _pieces(span: Span) -> list[tuple[int, int]]:
    """`span` cut into starts and sizes: the counters must be about right when a client leaves early."""
    end = span.start + span.size
    return [(start, min(_PIECE, end - start)) for start in range(span.start, end, _PIECE)]


async def receive(request: web.Request, appender: Appender, chunk: Span | None) -> None:
    """Append the request's body; a `chunk` must be the next one (else 416) and as long as it says.

    A body that is too long or too short for its Content-Range leaves nothing behind. What a client without
    Content-Range sent before it left stays, and the upload's status tells how much that is.
    """
    start = appender.size
    if chunk is not None:
        _check_chunk(request, chunk, start)
    async for data in request.content.iter_any():
        appender.append(data)
        if chunk is not None and appender.size - start > chunk.size:
            break
    if chunk is not None and appender.size - start != chunk.size:
        appender.truncate(start)
        raise Refusal(400, "SIZE_INVALID", f"the chunk is not of the {chunk.size} bytes of its Content-Range")


def _check_chunk(request: web.Request, chunk: Span, start: int) -> None:
    if chunk.start != start:
        progress = {"Range": upload_range(start)}
        raise Refusal(416, "BLOB_UPLOAD_INVALID", f"expected byte {start}, not {chunk.start}", progress)
    if request.content_length not in (None, chunk.size):
        raise Refusal(400, "SIZE_INVALID", "Content-Length and Content-Range disagree")


def upload_range(size: int) -> str:
    """The Range header of an upload's status; the specification has no way to write an empty one."""
    return f"0-{max(size - 1, 0)}"


async def receive_bounded(request: web.Request, limit: int) -> bytes:
    """The whole body; 413 where it is longer than `limit` bytes."""
    body = bytearray()
    async for data in request.content.iter_any():
        body += data
        if len(body) > limit:
            raise Refusal(413, "SIZE_INVALID", f"more than {limit} bytes")
    return bytes(body)
