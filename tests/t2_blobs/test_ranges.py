"""Wants that become requests: merging, how many run at once, failures, and waiters that give up."""

import asyncio
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.blobs import ranges
from crfs.blobs.http import Http
from crfs.blobs.need import Need
from crfs.blobs.pace import Pace
from crfs.blobs.ranges import CONNECTIONS, GAP_MAX, MERGE_LIMIT, RESERVED, RangeFetcher
from crfs.blobs.url import UrlBlob
from crfs.errors import NotFoundError, TransportError
from crfs.formats.reference import parse_url
from tests.support.countingblob import DATA, CountingBlob, settle, start
from tests.support.faults import CutBody, FaultProxy, IgnoreRange, Slow, Status
from tests.support.fetching import with_http

# before anything was measured
MERGE_GAP = Pace().gap


@st.composite
def wants(draw: st.DrawFn, size: int = 4000) -> list[tuple[int, int]]:
    begins = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=25))
    lengths = st.one_of(st.integers(0, 20), st.integers(0, 700))
    return [(begin, min(begin + draw(lengths), size)) for begin in begins]


@settings(max_examples=300, deadline=None)
@given(asked=wants(), connections=st.integers(1, 3), gap=st.integers(0, 100), data=st.data())
def test_any_wants_get_their_bytes(
    asked: list[tuple[int, int]], connections: int, gap: int, data: st.DataObject
) -> None:
    limit = 500
    turns = data.draw(st.lists(st.booleans(), min_size=len(asked), max_size=len(asked)))

    async def run() -> None:
        blob, other = CountingBlob(DATA[:4000]), CountingBlob(DATA[4000:8000])
        fetcher = RangeFetcher(connections)
        tasks = []
        for number, (want, wait) in enumerate(zip(asked, turns, strict=True)):
            place = other if number % 5 == 4 else blob
            tasks.append((place, want, asyncio.ensure_future(fetcher.fetch(place, *want))))
            if wait:
                await asyncio.sleep(0)
        for place, want, task in tasks:
            assert await task == place.data[want[0] : want[1]]
        requests = blob.asked + other.asked
        assert len(requests) <= len(asked)
        assert max(blob.most_active, other.most_active) <= connections
        for begin, end in requests:
            assert begin in {want[0] for want in asked}
            assert end in {want[1] for want in asked}
            assert end - begin <= limit or (begin, end) in asked

    with patch.multiple(ranges, GAP_MIN=gap, GAP_MAX=gap, MERGE_LIMIT=limit):
        asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(asked=wants(), connections=st.integers(RESERVED + 2, CONNECTIONS), data=st.data())
def test_any_who_stay_get_their_bytes_whoever_leaves(
    asked: list[tuple[int, int]], connections: int, data: st.DataObject
) -> None:
    """Wants of all needs, some given up, some hurried, some of them met by a failure that they try again after."""
    size = len(asked)
    needs = data.draw(st.lists(st.sampled_from(list(Need)), min_size=size, max_size=size))
    steps = st.sampled_from(["stay", "leave", "hurry", "fail"])
    then = data.draw(st.lists(st.tuples(st.integers(0, 4), steps), min_size=size, max_size=size))

    async def run() -> None:
        blob, other = CountingBlob(DATA[:4000]), CountingBlob(DATA[4000:8000])
        blob.piece = other.piece = 100
        fetcher = RangeFetcher(connections)

        async def fetch(place: CountingBlob, want: tuple[int, int], need: Need) -> memoryview:
            while True:
                try:
                    return await fetcher.fetch(place, *want, need)
                except TransportError:
                    place.error = None

        staying = []
        for number, (want, need, (turns, step)) in enumerate(zip(asked, needs, then, strict=True)):
            place = other if number % 5 == 4 else blob
            task = asyncio.ensure_future(fetch(place, want, need))
            for _ in range(turns):
                await asyncio.sleep(0)
            if step == "hurry":
                fetcher.hurry(place, want[0])
            elif step == "fail":
                place.error = TransportError("counting: no route")
            if step == "leave":
                task.cancel()
            else:
                staying.append((place, want, task))
        for place, want, task in staying:
            assert await asyncio.wait_for(task, 60) == place.data[want[0] : want[1]]
        await asyncio.wait_for(fetcher.calm(), 60)

    with patch.multiple(ranges, GAP_MIN=50, GAP_MAX=50, MERGE_LIMIT=500):
        asyncio.run(run())


def test_wants_of_one_turn_become_one_request() -> None:
    async def run() -> None:
        blob = CountingBlob()
        tasks = start(RangeFetcher(), blob, (2000, 3000), (0, 1000), (1000, 2000), (500, 600), (0, 1000))
        results = await asyncio.gather(*tasks)
        assert results == [DATA[2000:3000], DATA[:1000], DATA[1000:2000], DATA[500:600], DATA[:1000]]
        assert blob.asked == [(0, 3000)]

    asyncio.run(run())


def test_gap_decides_over_merging() -> None:
    async def run(gap: int) -> list[tuple[int, int]]:
        blob = CountingBlob()
        await asyncio.gather(*start(RangeFetcher(), blob, (0, 10), (10 + gap, 20 + gap)))
        return blob.asked

    assert asyncio.run(run(MERGE_GAP)) == [(0, 20 + MERGE_GAP)]
    assert asyncio.run(run(MERGE_GAP + 1)) == [(0, 10), (11 + MERGE_GAP, 21 + MERGE_GAP)]


def test_want_that_ends_before_an_earlier_one_does_not_hide_it() -> None:
    """A long want, and short ones inside of it: what comes next is measured from the long one's end."""

    async def run() -> None:
        blob = CountingBlob()
        inside = (10, 20)
        behind = (100_000 + MERGE_GAP - 1, 100_000 + MERGE_GAP)
        await asyncio.gather(*start(RangeFetcher(), blob, (0, 100_000), inside, behind))
        assert blob.asked == [(0, 100_000 + MERGE_GAP)]

    asyncio.run(run())


def test_merged_request_stays_within_the_limit() -> None:
    async def run() -> None:
        blob = CountingBlob(bytes(3 * MERGE_LIMIT))
        half = MERGE_LIMIT // 2
        # the oldest lies in the middle, and the one before it ends behind it
        wanted = [(half, half + 10), (100, half + 5_000), (1, 5), (half + 20, MERGE_LIMIT + 50)]
        await asyncio.gather(*start(RangeFetcher(), blob, *wanted))
        assert all(end - begin <= MERGE_LIMIT for begin, end in blob.asked)
        assert sorted(blob.asked) == [(1, 5), (100, MERGE_LIMIT + 50)]

    asyncio.run(run())


def test_want_beyond_the_limit_is_one_request() -> None:
    async def run() -> None:
        blob = CountingBlob(bytes(MERGE_LIMIT + 100))
        assert len(await RangeFetcher().fetch(blob, 0, MERGE_LIMIT + 100)) == MERGE_LIMIT + 100
        assert blob.asked == [(0, MERGE_LIMIT + 100)]

    asyncio.run(run())


def test_blobs_are_not_mixed() -> None:
    async def run() -> None:
        one, two = CountingBlob(DATA), CountingBlob(DATA[::-1])
        fetcher = RangeFetcher()
        tasks = start(fetcher, one, (0, 10), (10, 20)) + start(fetcher, two, (0, 10), (10, 20))
        assert await asyncio.gather(*tasks) == [DATA[:10], DATA[10:20], DATA[:-11:-1], DATA[-11:-21:-1]]
        assert one.asked == two.asked == [(0, 20)]

    asyncio.run(run())


@pytest.mark.parametrize("connections", [1, 2, CONNECTIONS])
def test_so_many_connections_and_no_more(connections: int) -> None:
    async def run() -> None:
        # as far apart as never to be merged, however slow the machine is
        blob = CountingBlob(bytes(30 * 2 * GAP_MAX))
        blob.gate.clear()
        wanted = [(number * 2 * GAP_MAX, number * 2 * GAP_MAX + 1) for number in range(30)]
        tasks = start(RangeFetcher(connections), blob, *wanted)
        await settle()
        # the oldest first; the others are not even sent
        assert blob.asked == wanted[:connections]
        blob.gate.set()
        await asyncio.gather(*tasks)
        assert blob.most_active == connections
        assert blob.asked == wanted

    asyncio.run(run())


def test_wants_that_waited_leave_together() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.gate.clear()
        fetcher = RangeFetcher(1)
        first = start(fetcher, blob, (0, 10))
        await settle()
        late = start(fetcher, blob, (100, 200))
        await settle()
        late += start(fetcher, blob, (200, 300), (90, 100))
        await settle()
        blob.gate.set()
        await asyncio.gather(*first, *late)
        assert blob.asked == [(0, 10), (90, 300)]

    asyncio.run(run())


def test_should_fail_everyone_of_a_failed_request() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.error = TransportError("counting: no route")
        fetcher = RangeFetcher(1)
        tasks = start(fetcher, blob, (0, 10), (10, 20), (200_000, 200_001))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in found] == ["counting: no route"] * 3
        assert blob.asked == [(0, 20), (200_000, 200_001)]
        # and the connection is free again
        blob.error = None
        assert await fetcher.fetch(blob, 5, 7) == DATA[5:7]

    asyncio.run(run())


def test_failure_stays_with_its_request() -> None:
    async def run() -> None:
        good, bad = CountingBlob(), CountingBlob()
        bad.error = NotFoundError("gone")
        fetcher = RangeFetcher(1)
        failing, fine = start(fetcher, bad, (0, 10)) + start(fetcher, good, (0, 10))
        assert await fine == DATA[:10]
        with pytest.raises(NotFoundError, match="gone"):
            await failing

    asyncio.run(run())


def test_waiter_that_tries_again_at_once_is_not_tied_to_the_request_that_failed() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.error = TransportError("counting: no route")
        fetcher = RangeFetcher()

        async def try_twice() -> memoryview:
            try:
                return await fetcher.fetch(blob, 0, 10)
            except TransportError:
                # the other waiters of that request have not heard of it yet
                blob.error = None
                return await fetcher.fetch(blob, 0, 10)

        first, second = asyncio.ensure_future(try_twice()), start(fetcher, blob, (0, 10))[0]
        assert await first == DATA[:10]
        assert blob.asked == [(0, 10), (0, 10)]
        with pytest.raises(TransportError, match="no route"):
            await second

    asyncio.run(run())


def test_waiter_that_gives_up_takes_nobody_along() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.gate.clear()
        fetcher = RangeFetcher(1)
        running, other = start(fetcher, blob, (0, 10), (10, 20))
        await settle()
        running.cancel()
        await settle()
        blob.gate.set()
        assert await other == DATA[10:20]
        assert running.cancelled()
        assert await fetcher.fetch(blob, 30, 40) == DATA[30:40]

    asyncio.run(run())


def test_nothing_is_sent_for_a_waiter_that_has_given_up() -> None:
    async def run() -> None:
        blob = CountingBlob()
        blob.gate.clear()
        fetcher = RangeFetcher(1)
        first, queued, last = start(fetcher, blob, (0, 10), (100_000, 100_010), (200_000, 200_010))
        await settle()
        queued.cancel()
        blob.gate.set()
        await asyncio.gather(first, last)
        assert blob.asked == [(0, 10), (200_000, 200_010)]

    asyncio.run(run())


def test_cancelled_request_does_not_leave_its_waiters_alone() -> None:
    """The loop is going down: everything is cancelled, and nothing new is started."""

    async def run() -> None:
        blob = CountingBlob()
        blob.gate.clear()
        tasks = start(RangeFetcher(1), blob, (0, 10), (100_000, 100_010))
        await settle()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        found = await asyncio.gather(*others, return_exceptions=True)
        assert {type(error) for error in found} == {asyncio.CancelledError}
        assert all(task.cancelled() for task in tasks)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert blob.asked == [(0, 10)]

    asyncio.run(run())


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy({"/blob": DATA}) as served:
        yield served


def fetch_all(proxy: FaultProxy, *wanted: tuple[int, int]) -> list[bytes | BaseException]:
    async def work(http: Http) -> list[bytes | BaseException]:
        blob = UrlBlob(parse_url(f"{proxy.url}/blob"), http, verify=False)
        fetcher = RangeFetcher()
        fetches = (fetcher.fetch(blob, *want) for want in wanted)
        found = await asyncio.gather(*fetches, return_exceptions=True)
        return [one if isinstance(one, BaseException) else bytes(one) for one in found]

    return with_http(work)


def test_one_request_reaches_the_server(proxy: FaultProxy) -> None:
    wanted = [(number * 1000, number * 1000 + 1000) for number in range(100)]
    assert fetch_all(proxy, *wanted) == [DATA[begin:end] for begin, end in wanted]
    assert [seen.headers["Range"] for seen in proxy.requests] == ["bytes=0-99999"]


@pytest.mark.warns("ignores Range")
def test_wants_survive_a_server_that_cuts_and_ignores(proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=3000, times=2), IgnoreRange(skip=2, times=1), Slow(seconds=0.001))
    wanted = [(0, 10_000), (5_000, 20_000), (100_000, 120_000)]
    assert fetch_all(proxy, *wanted) == [DATA[begin:end] for begin, end in wanted]


def test_should_fail_all_wants_of_a_blob_that_is_gone(proxy: FaultProxy) -> None:
    proxy.use(Status(status=404))
    found = fetch_all(proxy, (0, 10), (10, 20), (250_000, 250_010))
    assert [type(error) for error in found] == [NotFoundError] * 3
    assert all(f"{proxy.url}/blob" in str(error) for error in found)
    assert len(proxy.requests) == 2


def test_what_was_damaged_on_its_way_is_asked_for_again() -> None:
    async def run() -> None:
        blob = CountingBlob()
        fetcher = RangeFetcher()
        fetcher.hold(blob, 0, 100)
        await settle()
        assert await fetcher.fetch(blob, 0, 100, anew=True) == DATA[:100]
        assert blob.asked == [(0, 100), (0, 100)]

    asyncio.run(run())
