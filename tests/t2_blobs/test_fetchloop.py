"""The fetch thread: what it runs, how it ends, and what those who wait are told."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from crfs.blobs.fetchloop import FetchLoop, Once, gather, pooled
from crfs.errors import FormatError, TransportError


@pytest.fixture
def loop() -> Iterator[FetchLoop]:
    loop = FetchLoop()
    loop.start()
    yield loop
    loop.close()
    assert "crfs-fetch" not in {thread.name for thread in threading.enumerate()}


async def sleep_for_ever() -> None:
    await asyncio.Event().wait()


def test_runs_coroutines_of_any_thread_in_its_own(loop: FetchLoop) -> None:
    async def where() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: loop.submit(where()).result(5), range(20)))
    assert names == ["crfs-fetch"] * 20


def test_should_fail_with_the_coroutines_own_error(loop: FetchLoop) -> None:
    async def fail() -> None:
        raise TransportError("no route")

    with pytest.raises(TransportError, match="no route"):
        loop.submit(fail()).result(5)


def test_close_wakes_all_who_wait() -> None:
    loop = FetchLoop()
    loop.start()
    cleaned = threading.Event()

    async def work() -> None:
        try:
            await sleep_for_ever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    futures = [loop.submit(work()) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        waiters = [pool.submit(future.exception, 10) for future in futures]
        before = time.monotonic()
        loop.close()
        for waiter in waiters:
            with pytest.raises(concurrent.futures.CancelledError):
                waiter.result(10)
    assert time.monotonic() - before < 2
    assert cleaned.is_set()


def test_close_does_not_wait_for_ever() -> None:
    """A task that will not end is left behind after a few seconds."""
    loop = FetchLoop()
    loop.start()
    end = time.monotonic() + 20

    async def stubborn() -> None:
        while time.monotonic() < end:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    loop.submit(stubborn())
    before = time.monotonic()
    loop.close()
    assert time.monotonic() - before < 4


def test_close_is_harmless_before_start_and_twice() -> None:
    loop = FetchLoop()
    loop.close()
    loop.start()
    loop.close()
    loop.close()


def test_pooled_work_runs_elsewhere(loop: FetchLoop) -> None:
    with ThreadPoolExecutor(1, "pool") as pool:
        found = loop.submit(pooled(pool, lambda: threading.current_thread().name)).result(5)
    assert found == "pool_0"


def test_should_fail_pooled_work_that_fails(loop: FetchLoop) -> None:
    def fail() -> None:
        raise FormatError("damaged")

    with ThreadPoolExecutor(1) as pool, pytest.raises(FormatError, match="damaged"):
        loop.submit(pooled(pool, fail)).result(5)


def test_gather_keeps_the_order() -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0.003 * (5 - value))
        return value

    assert asyncio.run(gather(later(value) for value in range(5))) == [0, 1, 2, 3, 4]
    assert asyncio.run(gather([])) == []


def test_should_fail_gather_with_the_first_failure_once_the_rest_has_ended() -> None:
    ended: list[int] = []

    async def work(value: int) -> int:
        try:
            if value == 2:
                raise FormatError("the third")
            await sleep_for_ever()
        finally:
            await asyncio.sleep(0.01)
            ended.append(value)
        return value

    async def run() -> None:
        with pytest.raises(FormatError, match="the third"):
            await gather(work(value) for value in range(4))
        assert sorted(ended) == [0, 1, 2, 3]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_cancelled_gather_ends_its_tasks() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gather(sleep_for_ever() for _ in range(3)), 0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


class Counter:
    """A coroutine to be run once: slow, and failing where it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    async def __call__(self) -> int:
        self.runs += 1
        await asyncio.sleep(0.01)
        if self._error is not None:
            raise self._error
        return 7


def test_once_runs_when_it_is_asked_for_and_only_then() -> None:
    async def run() -> None:
        counter = Counter()
        once = Once(counter)
        await asyncio.sleep(0)
        assert counter.runs == 0
        assert await asyncio.gather(*(once.get() for _ in range(5))) == [7] * 5
        assert await once.get() == 7
        assert counter.runs == 1

    asyncio.run(run())


def test_should_fail_once_for_everybody() -> None:
    async def run() -> None:
        counter = Counter(FormatError("damaged"))
        once = Once(counter)
        found = await asyncio.gather(*(once.get() for _ in range(3)), return_exceptions=True)
        assert [str(error) for error in found] == ["damaged"] * 3
        assert counter.runs == 1

    asyncio.run(run())


def test_who_gives_up_on_once_takes_nobody_along() -> None:
    async def run() -> None:
        once = Once(Counter())
        first, second = asyncio.ensure_future(once.get()), asyncio.ensure_future(once.get())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 7
        assert first.cancelled()

    asyncio.run(run())
