"""Inflating one member: against zlib, with damage, and within the size that was declared."""

import hashlib
import os
import random
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs._native.inflate import check_sha256, inflate
from crfs.errors import DigestMismatch, FormatError
from tests.support.inflate_oracle import FCOMMENT, FEXTRA, FHCRC, FNAME, first_member, member

_MIB = 1 << 20
_TEXT = b"".join(b"%d bottles of beer on the wall\n" % i for i in range(3000))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


_DATA = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda data, times: data * times, st.binary(max_size=20), st.integers(0, 500)),
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(), st.integers(0, 5000)),
)
_MEMBERS = st.builds(
    lambda data, level, strategy, flags: (data, member(data, level, strategy, flags)),
    _DATA,
    st.integers(0, 9),
    st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]),
    st.sets(st.sampled_from([FHCRC, FEXTRA, FNAME, FCOMMENT])).map(sum),
)


@given(_MEMBERS, st.data())
def test_it_is_what_zlib_makes_of_it(packed: tuple[bytes, bytes], draw: st.DataObject) -> None:
    data, src = packed
    assert first_member(src) == data
    assert inflate(src, len(data)) == data
    assert inflate(memoryview(src), len(data), _sha256(data)) == data
    size = draw.draw(st.integers(0, len(data)))
    assert inflate(src, size, _sha256(data[:size])) == data[:size]


@given(_MEMBERS, st.one_of(st.binary(max_size=30), _MEMBERS.map(lambda packed: packed[1])), st.data())
def test_what_follows_the_member_is_not_looked_at(
    packed: tuple[bytes, bytes], behind: bytes, draw: st.DataObject
) -> None:
    data, src = packed
    size = draw.draw(st.integers(0, len(data)))
    assert inflate(src + behind, size, _sha256(data[:size])) == data[:size]


@pytest.mark.parametrize("padding", [1, 511, 1536, _MIB - 1, _MIB, _MIB + 1, 3 * _MIB])
@pytest.mark.parametrize("behind", [b"", member(b"next"), bytes(1024)])
def test_payload_then_padding(padding: int, behind: bytes) -> None:
    src = member(_TEXT + bytes(padding)) + behind
    assert inflate(src, len(_TEXT), _sha256(_TEXT)) == _TEXT
    assert inflate(src, len(_TEXT)) == _TEXT


def test_empty_members() -> None:
    assert inflate(member(b""), 0, _sha256(b"")) == b""
    assert inflate(member(b"x"), 0, _sha256(b"")) == b""


@pytest.mark.parametrize("padding", [0, 100, 2 * _MIB])
def test_should_fail_at_another_digest(padding: int) -> None:
    src = member(_TEXT + bytes(padding))
    for wrong in (_sha256(_TEXT + b"x"), _sha256(b""), bytes(32)):
        with pytest.raises(DigestMismatch):
            inflate(src, len(_TEXT), wrong)
    with pytest.raises(DigestMismatch):
        inflate(src, len(_TEXT) - 1, _sha256(_TEXT))


@pytest.mark.parametrize("more", [1, 100, 2 * _MIB])
def test_should_fail_at_a_shorter_member(more: int) -> None:
    for behind in (b"", member(bytes(3 * _MIB))):
        with pytest.raises(FormatError, match=f"ends after {len(_TEXT)} of"):
            inflate(member(_TEXT) + behind, len(_TEXT) + more)


@pytest.mark.parametrize("data", [b"", b"x", _TEXT[:2000]])
def test_should_fail_at_a_cut_member(data: bytes) -> None:
    src = member(data)
    for length in range(len(src)):
        with pytest.raises(FormatError):
            inflate(src[:length], len(data))


@pytest.mark.parametrize("length", [_MIB // 2, 2 * _MIB, -9, -8, -1])
def test_should_fail_at_a_cut_member_that_holds_more(length: int) -> None:
    data = random.Random(1).randbytes(3 * _MIB)
    with pytest.raises(FormatError):
        inflate(member(data)[:length], _MIB)


def test_a_digest_is_enough_where_only_the_rest_is_cut() -> None:
    data = random.Random(1).randbytes(3 * _MIB)
    src = member(data)[: 2 * _MIB]
    assert inflate(src, _MIB, _sha256(data[:_MIB])) == data[:_MIB]
    with pytest.raises(FormatError):
        inflate(src, 2 * _MIB, _sha256(data[: 2 * _MIB]))


@pytest.mark.parametrize("at", [_MIB // 2, 5 * _MIB // 2, -8, -1])
def test_should_fail_at_a_flipped_bit_anywhere_in_a_member_that_holds_more(at: int) -> None:
    src = bytearray(member(random.Random(1).randbytes(3 * _MIB)))
    src[at] ^= 1
    with pytest.raises(FormatError):
        inflate(bytes(src), _MIB)


@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_nothing(at: int, bit: int) -> None:
    data = _TEXT[:3000]
    src = bytearray(member(data, flags=FNAME))
    src[at % len(src)] ^= 1 << bit
    try:
        found = inflate(bytes(src), len(data))
    except FormatError:
        return
    # not under the checksum: the header's time, system and name, and the bits that fill the last deflated byte
    assert found == data
    assert at % len(src) < 16 or at % len(src) == len(src) - 9


@given(st.binary(max_size=100))
def test_should_fail_at_what_is_no_member(src: bytes) -> None:
    if first_member(src) is None:
        with pytest.raises(FormatError):
            inflate(src, 1)


@given(st.binary(min_size=8, max_size=60), st.integers(0, 100))
def test_any_deflate_stream_is_read_or_refused(body: bytes, size: int) -> None:
    src = b"\x1f\x8b\x08\x00\0\0\0\0\0\xff" + body
    whole = first_member(src)
    try:
        found = inflate(src, size)
    except FormatError:
        assert whole is None or len(whole) < size
    else:
        assert len(found) == size


def test_should_fail_at_a_digest_of_another_length() -> None:
    for digest in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            inflate(member(b""), 0, digest)
        with pytest.raises(ValueError, match="32 bytes"):
            check_sha256(b"", digest)


def test_should_fail_where_no_memory_is_left() -> None:
    with pytest.raises((MemoryError, OverflowError)):
        inflate(member(b""), 2**62)


def test_check_sha256() -> None:
    check_sha256(_TEXT, _sha256(_TEXT))
    check_sha256(memoryview(_TEXT)[5:], _sha256(_TEXT[5:]))
    with pytest.raises(DigestMismatch):
        check_sha256(_TEXT, _sha256(_TEXT[5:]))


# memory and threads


@pytest.mark.parametrize("size", [0, 1, 1000, _MIB])
@pytest.mark.parametrize("behind", [b"", b"\xff" * 4])
def test_a_bomb_takes_no_more_memory_than_declared(size: int, behind: bytes) -> None:
    src = member(bytes(32 * _MIB), 9) + behind
    tracemalloc.start()
    try:
        assert inflate(src, size) == bytes(size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * size + len(src) * 2 + _MIB + (64 << 10)


@pytest.fixture
def _patient_gil() -> Iterator[None]:
    """A thread that wants the GIL gets it only when another one gives it away."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_patient_gil")
@pytest.mark.parametrize("checked", [False, True])
def test_other_threads_run_meanwhile(checked: bool) -> None:
    data = os.urandom(_MIB) * 32
    src, digest = member(data, 1), _sha256(data)
    spans: list[tuple[float, float]] = []

    def work() -> None:
        started = time.perf_counter()
        if checked:
            check_sha256(data, digest)
        else:
            inflate(src, len(data), digest)
        spans.append((started, time.perf_counter()))

    worker = threading.Thread(target=work)
    worker.start()
    ticks = []
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0)
    worker.join()
    ((started, ended),) = spans
    tenth = (ended - started) / 10
    assert [tick for tick in ticks if started + tenth < tick < ended - tenth]


def test_many_threads_at_once() -> None:
    packed = [(data, member(data)) for data in (_TEXT * 3, os.urandom(100_000), bytes(500_000))]
    wrong: list[int] = []

    def work(number: int) -> None:
        for i in range(60):
            data, src = packed[(number + i) % len(packed)]
            if inflate(src, len(data), _sha256(data)) != data:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
