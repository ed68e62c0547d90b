"""Members that libdeflate writes, read by Python's gzip, and by the kernel that reads layers."""

import gzip
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs._native.deflate import GzipCompressor
from crfs._native.inflate import inflate


@given(st.binary(max_size=5000), st.integers(0, 12), st.integers(1, 40))
def test_any_bytes_at_any_level(data: bytes, level: int, times: int) -> None:
    compressor = GzipCompressor(level)
    for _ in range(2):
        member = compressor.compress(data * times)
        assert gzip.decompress(member) == data * times
        assert inflate(member, len(data) * times) == data * times


def test_members_hold_no_time_and_are_the_same_each_time() -> None:
    members = {GzipCompressor(6).compress(memoryview(b"x" * 1000)) for _ in range(3)}
    assert len(members) == 1
    assert members.pop()[:4] == b"\x1f\x8b\x08\0"


def test_another_compressor_per_thread() -> None:
    data = bytes(range(256)) * 4000
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(GzipCompressor(9).compress(data))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [gzip.decompress(member) for member in found] == [data] * 4


@pytest.mark.parametrize("level", [-1, 13])
def test_should_fail_level_that_there_is_not(level: int) -> None:
    with pytest.raises(ValueError, match="not a level"):
        GzipCompressor(level)
