"""Ask a registry for ranges of a blob from many connections at once, in a process of its own.

`python -m benches.load URL BLOB_SIZE SIZE CONCURRENCY SECONDS` prints JSON. It ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time

import aiohttp

_MOST = 20_000


def main() -> None:
    """Ask, and print what came of it."""
    url, *numbers = sys.argv[1:]
    blob, size, concurrency = map(int, numbers[:3])
    print(json.dumps(asyncio.run(_ask_all(url, blob, size, concurrency, float(numbers[3])))))


async def _ask_all(url: str, blob: int, size: int, concurrency: int, seconds: float) -> dict[str, float]:
    """Raises aiohttp.ClientError, and ValueError where an answer isn't the range that was asked for."""
    took: list[float] = []
    connector = aiohttp.TCPConnector(limit=concurrency, ssl=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        begun = time.perf_counter()
        until = begun + seconds
        workers = [_ask_on(session, url, blob, size, until, took, seed) for seed in range(concurrency)]
        await asyncio.gather(*workers)
        elapsed = time.perf_counter() - begun
    cuts = statistics.quantiles(took, n=100)
    return {
        "p50_us": cuts[49] * 1e6,
        "p90_us": cuts[89] * 1e6,
        "p99_us": cuts[98] * 1e6,
        "rate_MBps": len(took) * size / elapsed / 1e6,
    }


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
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        async with session.get(url, headers=headers) as answer:
            body = await answer.read()
        if answer.status != 206 or len(body) != size:
            raise ValueError(f"{url}: status {answer.status} and {len(body)} bytes for a range of {size}")
        took.append(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
