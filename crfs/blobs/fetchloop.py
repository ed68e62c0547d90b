"""The fetch thread: one asyncio loop on which everything that talks to a registry runs.

Any thread submits; the loop's own thread must never wait for a future that it has to fill.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from crfs.blobs.threads import leave_signals
from crfs.errors import DigestMismatch, FormatError

log = logging.getLogger(__name__)
T = TypeVar("T")


class FetchLoop:
    """An event loop in a thread of its own, from start() to close()."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Not before a fork: threads do not survive it."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="crfs-fetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        assert self._loop is not None
        leave_signals()
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop; the future may be waited for on any other thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, work: Callable[[], object]) -> None:
        """Call a function on the loop, soon."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(work)

    def give_up(self) -> None:
        """Cancel what runs now."""
        self.call(_cancel_all)

    def close(self) -> None:
        """Cancel what still runs and end the thread; waits a few seconds at the most. May be repeated."""
        if self._loop is None or self._thread is None or self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_end(), self._loop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


async def pooled(pool: Executor, work: Callable[[], T]) -> T:
    """Run blocking work in a pool, and wait for it on the loop."""
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order; the first failure cancels the rest, waits for them to end, and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def again_if_damaged(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns; where it finds bytes that are damaged, a second one: that may have come on their way."""
    try:
        return await attempt()
    except (DigestMismatch, FormatError) as error:
        log.info("%s; fetching it again", error)
    return await attempt()


class Once(Generic[T]):
    """A coroutine that runs when it is first asked for; everyone who asks gets its one result."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self._task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result, or the exception that ended it."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._task)


def _cancel_all() -> set[asyncio.Task[Any]]:
    """Cancel every task of the loop that this is called on but for the one that calls."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    return tasks


async def _end() -> None:
    """Cancel all, let them end, then stop the loop."""
    tasks = _cancel_all()
    await asyncio.wait(tasks, timeout=2) if tasks else None
    asyncio.get_running_loop().stop()
