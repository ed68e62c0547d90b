"""Wants by who needs them: who comes first, what stands still, what serves those who come later."""

import asyncio

import pytest

from crfs.blobs.need import Need
from crfs.blobs.ranges import GAP_MAX, RESERVED, RangeFetcher
from crfs.errors import TransportError
from tests.support.countingblob import DATA, CountingBlob, settle, start


def test_what_has_come_is_handed_on_while_the_rest_travels() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.piece = 1000
        seen: list[int] = []
        wanted = RangeFetcher().fetch(blob, 500, 3500, arrived=lambda data: seen.append(len(data)))
        assert await wanted == DATA[500:3500]
        assert seen == [1000, 2000, 3000]

    asyncio.run(run())


def test_want_is_done_before_those_behind_it() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.piece = 10
        done: list[int] = []
        tasks = start(RangeFetcher(), blob, (0, 10), (10, 30), (15, 40))
        for task in tasks:
            task.add_done_callback(lambda one: done.append(len(one.result())))
        await asyncio.gather(*tasks)
        assert done == [10, 20, 25]

    asyncio.run(run())


def test_readers_come_first_then_what_is_likely_then_the_rest() -> None:
    async def run() -> None:
        blob = CountingBlob(bytes(10 * GAP_MAX))
        fetcher = RangeFetcher(RESERVED + 1)
        blob.gate.clear()
        needs = [Need.REST, Need.LIKELY, Need.LIKELY, Need.READER, Need.REST]
        places = [number * 2 * GAP_MAX for number in range(len(needs))]
        tasks = [
            asyncio.ensure_future(fetcher.fetch(blob, at, at + 1, need))
            for at, need in zip(places, needs, strict=True)
        ]
        await settle()
        # one connection is for what is likely, and is taken by the reader
        assert blob.asked == [(places[3], places[3] + 1)]
        blob.gate.set()
        await asyncio.gather(*tasks)
        assert [start for start, _ in blob.asked] == [places[number] for number in (3, 1, 2, 0, 4)]

    asyncio.run(run())


def test_the_rest_stands_still_while_a_reader_waits() -> None:
    async def run() -> None:
        blob, other = CountingBlob(), CountingBlob()
        blob.piece = 1000
        fetcher = RangeFetcher()
        came: list[int] = []
        rest = asyncio.ensure_future(
            fetcher.fetch(blob, 0, 50_000, Need.REST, lambda data: came.append(len(data)))
        )
        other.gate.clear()
        # not waited for: the reader comes before the first byte
        reader = start(fetcher, other, (0, 10))[0]
        await settle()
        assert len(came) <= 1
        assert not rest.done()
        other.gate.set()
        assert await reader == DATA[:10]
        assert await rest == DATA[:50_000]

    asyncio.run(run())


def test_what_a_reader_comes_to_wait_for_goes_on() -> None:
    async def run() -> None:
        blob, other = CountingBlob(), CountingBlob()
        fetcher = RangeFetcher()
        other.gate.clear()
        reader = start(fetcher, other, (0, 10))[0]
        rest = asyncio.ensure_future(fetcher.fetch(blob, 0, 50_000, Need.REST))
        await settle()
        assert blob.asked == []
        fetcher.hurry(blob, 20_000)
        assert await rest == DATA[:50_000]
        other.gate.set()
        await reader

    asyncio.run(run())


@pytest.mark.parametrize("by", ["a want of its own", "hurry"])
def test_the_rest_that_stands_still_goes_on_for_a_reader(by: str) -> None:
    async def run() -> None:
        blob, other = CountingBlob(), CountingBlob()
        blob.piece = 1000
        came: list[int] = []
        fetcher = RangeFetcher()
        rest = asyncio.ensure_future(
            fetcher.fetch(blob, 0, 50_000, Need.REST, lambda data: came.append(len(data)))
        )
        while not came:
            await asyncio.sleep(0)
        other.gate.clear()
        reader = start(fetcher, other, (0, 10))[0]
        await settle()
        assert len(came) < 50
        if by == "hurry":
            fetcher.hurry(blob, 40_000)
        else:
            assert await asyncio.wait_for(fetcher.fetch(blob, 40_000, 40_010), 30) == DATA[40_000:40_010]
        assert await asyncio.wait_for(rest, 30) == DATA[:50_000]
        assert not reader.done()
        other.gate.set()
        await reader
        assert blob.asked == [(0, 50_000)]

    asyncio.run(run())


def test_bytes_on_their_way_are_not_asked_for_again() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.piece = 1000
        blob.gate.clear()
        fetcher = RangeFetcher()
        first = start(fetcher, blob, (0, 10_000))
        await settle()
        inside = start(fetcher, blob, (2_500, 2_600), (0, 10_000), (9_999, 10_000))
        across = start(fetcher, blob, (9_000, 11_000))
        await settle()
        blob.gate.set()
        assert await asyncio.gather(*inside) == [DATA[2_500:2_600], DATA[:10_000], DATA[9_999:10_000]]
        assert await across[0] == DATA[9_000:11_000]
        assert await first[0] == DATA[:10_000]
        assert blob.asked == [(0, 10_000), (9_000, 11_000)]

    asyncio.run(run())


def test_what_is_held_serves_those_who_come_later() -> None:
    async def run() -> None:
        blob = CountingBlob()
        fetcher = RangeFetcher()
        fetcher.hold(blob, 0, 10_000)
        await settle()
        assert blob.active == 0
        seen: list[int] = []
        assert (
            await fetcher.fetch(blob, 100, 200, arrived=lambda data: seen.append(len(data))) == DATA[100:200]
        )
        assert seen == [100]
        assert blob.asked == [(0, 10_000)]
        fetcher.let_go()
        assert await fetcher.fetch(blob, 100, 200) == DATA[100:200]
        assert blob.asked == [(0, 10_000), (100, 200)]
        # and what failed is not held
        blob.error = TransportError("counting: no route")
        fetcher.hold(blob, 50_000, 60_000)
        await settle()
        blob.error = None
        assert await fetcher.fetch(blob, 50_000, 60_000) == DATA[50_000:60_000]

    asyncio.run(run())
