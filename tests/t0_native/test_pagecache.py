"""The page cache against a dict in the order of use, and under several threads."""

import random
import threading
from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crfs._native.pagecache import PageCache

_KEYS = st.sampled_from([0, 1, 2, 3, 2**32 - 1, 2**40 - 1])


def _bytes(key: int, length: int) -> bytes:
    return random.Random(key).randbytes(length)


class CacheMachine(RuleBasedStateMachine):
    """Whatever is done to the cache is done to a model of it, and both give the same answers."""

    @initialize(page_size=st.integers(1, 9), pages=st.integers(1, 12), rest=st.integers(0, 8))
    def start(self, page_size: int, pages: int, rest: int) -> None:
        self.page_size, self.capacity = page_size, pages
        self.cache = PageCache(page_size * pages + min(rest, page_size - 1), page_size)
        # what was used last comes last
        self.model: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self.hits = self.misses = 0

    @rule(key=_KEYS, length=st.integers(0, 50))
    def insert(self, key: int, length: int) -> None:
        data = _bytes(key, length)
        self.cache.insert(key, data)
        if length > self.capacity * self.page_size // 2:
            return
        for page in range(-(-length // self.page_size)):
            if (key, page) in self.model:
                continue
            if len(self.model) == self.capacity:
                self.model.popitem(last=False)
            self.model[key, page] = data[page * self.page_size : (page + 1) * self.page_size]

    @rule(key=_KEYS, off=st.integers(0, 60), size=st.integers(0, 60))
    def read(self, key: int, off: int, size: int) -> None:
        assert self.cache.read(key, off, size) == self._expected(key, off, size)

    def _expected(self, key: int, off: int, size: int) -> bytes | None:
        parts, end = [], off + size
        while off < end:
            page, within = divmod(off, self.page_size)
            step = min(self.page_size - within, end - off)
            part = self.model.get((key, page), b"")[within : within + step]
            if len(part) < step:
                self.misses += 1
                return None
            self.hits += 1
            self.model.move_to_end((key, page))
            parts.append(part)
            off += step
        return b"".join(parts)

    @invariant()
    def counts(self) -> None:
        stats = self.cache.stats()
        assert (stats.hits, stats.misses, stats.capacity) == (self.hits, self.misses, self.capacity)
        assert len(self.model) == stats.pages <= stats.capacity


TestCacheIsItsModel = CacheMachine.TestCase
TestCacheIsItsModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_what_was_inserted_is_read() -> None:
    cache = PageCache(1 << 20)
    data = _bytes(1, 100_000)
    cache.insert(7, memoryview(data))
    assert cache.read(7, 0, len(data)) == data
    assert cache.read(7, 16_380, 10) == data[16_380:16_390]
    assert cache.read(7, len(data), 0) == b""
    assert cache.read(7, 0, len(data) + 1) is None
    assert cache.read(8, 0, 1) is None


def test_bytes_that_are_there_are_not_overwritten() -> None:
    cache = PageCache(1 << 20)
    cache.insert(1, b"first")
    cache.insert(1, b"other")
    assert cache.read(1, 0, 5) == b"first"


def test_what_is_half_of_the_budget_is_kept_and_more_is_not() -> None:
    cache = PageCache(64, 16)
    cache.insert(1, bytes(33))
    assert cache.stats().pages == 0
    cache.insert(1, bytes(32))
    assert cache.read(1, 0, 32) == bytes(32)


def test_the_page_used_longest_ago_makes_room() -> None:
    cache = PageCache(64, 16)
    for key in range(4):
        cache.insert(key, bytes([key]) * 16)
    assert cache.read(0, 0, 16) is not None
    cache.insert(4, b"\4" * 16)
    assert [key for key in range(5) if cache.read(key, 0, 1) is None] == [1]


def test_the_budget_holds() -> None:
    cache = PageCache(1000, 16)
    for key in range(500):
        cache.insert(key, bytes(100))
        assert cache.stats().pages <= cache.stats().capacity == 62


@pytest.mark.parametrize(
    ("off", "size"), [(16 << 24, 1), ((16 << 24) - 1, 2), (2**64 - 1, 1), (0, 2**63), (2**64 - 1, 2**64 - 1)]
)
def test_there_is_nothing_behind_the_last_page(off: int, size: int) -> None:
    cache = PageCache(1024, 16)
    for key in range(8):
        cache.insert(key, bytes(16))
    assert cache.read(0, off, size) is None


@pytest.mark.parametrize("key", [2**40, 2**64 - 1, 2**64, -1])
def test_should_fail_at_a_key_out_of_range(key: int) -> None:
    cache = PageCache(1024, 16)
    with pytest.raises(OverflowError):
        cache.insert(key, b"x")
    with pytest.raises(OverflowError):
        cache.read(key, 0, 1)


@pytest.mark.parametrize(("budget", "page_size"), [(0, 16), (15, 16), (100, 0)])
def test_should_fail_without_room_for_a_page(budget: int, page_size: int) -> None:
    with pytest.raises(ValueError, match="holds no page"):
        PageCache(budget, page_size)


def test_should_fail_without_memory() -> None:
    with pytest.raises(MemoryError):
        PageCache(1 << 60, 1 << 40)


def test_should_fail_without_bytes() -> None:
    with pytest.raises(TypeError):
        PageCache(1024, 16).insert(1, "text")  # type: ignore[arg-type]


def test_threads_read_what_was_inserted() -> None:
    cache = PageCache(48 << 10, 1 << 10)
    chunks = {key: _bytes(key, 500 + 997 * key) for key in range(16)}
    wrong: list[tuple[int, int, int]] = []
    found = [0] * 4

    def work(number: int) -> None:
        source = random.Random(number)
        for _ in range(6000):
            key = source.randrange(16)
            off = source.randrange(len(chunks[key]))
            size = source.randrange(len(chunks[key]) - off + 1)
            got = cache.read(key, off, size)
            if got is None:
                cache.insert(key, chunks[key])
            else:
                found[number] += 1
                if got != chunks[key][off : off + size]:
                    wrong.append((key, off, size))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert min(found) > 100
    stats = cache.stats()
    assert stats.pages == stats.capacity
    assert stats.misses > 100
