"""Runs coroutines of the blobs floor to their end on a loop of their own, with short waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

from crfs.blobs.http import Http, Limits
from crfs.blobs.tls import TlsSettings
from crfs.blobs.transport import RetryPolicy

QUICK = RetryPolicy(attempts=4, total_seconds=5.0, base_delay=0.01, max_delay=0.05)
SHORT = Limits(connect_seconds=2.0, read_seconds=0.4, pool_seconds=5.0)

T = TypeVar("T")


def with_http(work: Callable[[Http], Awaitable[T]], *, certs: Path | None = None) -> T:
    """What `work` returns, given a session that is closed afterwards; `certs` is its only certs.d."""

    async def run() -> T:
        http = Http(SHORT, QUICK, TlsSettings([certs] if certs else []))
        try:
            return await work(http)
        finally:
            await http.close()

    return asyncio.run(run())


async def collect(body: AsyncIterator[bytes]) -> bytes:
    """All pieces of a body in one."""
    return b"".join([piece async for piece in body])


async def take(body: AsyncIterator[bytes], count: int) -> list[bytes]:
    """The first pieces of a body, which is then closed."""
    pieces: list[bytes] = []
    async with aclosing(body) as source:  # type: ignore[type-var]
        async for piece in source:
            pieces.append(piece)
            if len(pieces) == count:
                break
    return pieces
