"""A blob in memory, to see which requests a RangeFetcher makes of wants."""

import asyncio
import random
from collections.abc import AsyncIterator

from crfs.blobs.blob import Sink
from crfs.blobs.ranges import RangeFetcher

DATA = random.Random(1).randbytes(300_000)


class CountingBlob:
    """A blob in memory that notes each request, and answers it when it may."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []
        self.active = self.most_active = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.piece = 1 << 16

    @property
    def name(self) -> str:
        return f"counting/{id(self)}"

    async def fetch_range(self, start: int, end: int) -> bytes:
        raise NotImplementedError

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        self.asked.append((start, end))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.active -= 1
        if self.error is not None:
            raise self.error
        assert end <= len(self.data)
        for at in range(start, end, self.piece):
            await sink(self.data[at : min(at + self.piece, end)])
            await asyncio.sleep(0)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        raise NotImplementedError

    async def iter_body(self) -> AsyncIterator[bytes]:
        raise NotImplementedError
        yield b""

    def close(self) -> None:
        raise NotImplementedError


async def settle() -> None:
    """Until nothing more happens by itself."""
    for _ in range(10):
        await asyncio.sleep(0)


def start(
    fetcher: RangeFetcher, blob: CountingBlob, *wants: tuple[int, int]
) -> list[asyncio.Task[memoryview]]:
    return [asyncio.ensure_future(fetcher.fetch(blob, *want)) for want in wants]
