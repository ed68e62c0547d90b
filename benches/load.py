"""Ask a registry for ranges of a blob from many connections at once, in a process of its own.

`python -m benches.load URL BLOB_SIZE SIZE CONCURRENCY SECONDS` prints JSON: measures, and a digest of some ranges at
places that are the same for all. It ends by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
import sys
import time
from typing import Any

import aiohttp

_MOST = 20_000
_COMPARED = 5


def main() -> None:
    """Ask, and print what came of it."""
    url, *numbers = sys.argv[1:]
    blob, size, concurrency = map(int, numbers[:3])
    print(json.dumps(asyncio.run(_ask_all(url, blob, size, concurrency, float(numbers[3])))))


async def _ask_all(url: str, blob: int, size: int, concurrency: int, seconds: float) -> dict[str, Any]:
    """Raises aiohttp.ClientError, and ValueError where an answer isn't the range that was asked for."""
    took: list[float] = []
    connector = aiohttp.TCPConnector(limit=concurrency, ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        digest = hashlib.sha256()
        for place in range(_COMPARED):
            digest.update(await _ask(session, url, place * (blob - size) // _COMPARED, size))
        begun = time.perf_counter()
        until = begun + seconds
        workers = [_ask_on(session, url, blob, size, until, took, seed) for seed in range(concurrency)]
        await asyncio.gather(*workers)
        elapsed = time.perf_counter() - begun
    cuts = statistics.quantiles(took, n=100)
    measures = {
        "p50_us": cuts[49] * 1e6,
        "p90_us": cuts[89] * 1e6,
        "p99_us": cuts[98] * 1e6,
        "rate_MBps": len(took) * size / elapsed / 1e6,
    }
    return {"measures": measures, "digest": digest.hexdigest()}


async def _ask_on(
    session: aiohttp.ClientSession,
    url: str,
    blob: int,
    size: int,
    until: float,
    took: list[float],
    seed: int,
) -> None:
    places = random.Random(seed)
    while time.perf_counter() < until and len(took) < _MOST:
        offset = places.randrange(blob - size + 1)
        begun = time.perf_counter()
        await _ask(session, url, offset, size)
        took.append(time.perf_counter() - begun)


async def _ask(session: aiohttp.ClientSession, url: str, offset: int, size: int) -> bytes:
    async with session.get(url, headers={"Range": f"bytes={offset}-{offset + size - 1}"}) as answer:
        body = await answer.read()
    if answer.status != 206 or len(body) != size:
        raise ValueError(f"{url}: status {answer.status} and {len(body)} bytes for a range of {size}")
    return body


if __name__ == "__main__":
    main()
