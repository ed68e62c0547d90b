"""Footers, positions and annotations of zstd:chunked, by bytes that the reference implementations write."""

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import DigestMismatch, FormatError
from crfs.formats.digest import sha256_digest
from crfs.formats.voucher import NOTHING, read_voucher
from crfs.formats.zstdchunked import (
    Dialect,
    Place,
    build_footer,
    find_place,
    find_position,
    position_annotations,
    skippable_frame,
    tar_split_annotations,
)

NUMBERS = st.integers(0, 2**63)


def test_podman_footer_to_the_byte() -> None:
    found = build_footer(Dialect.PODMAN, Place(1, 2, 3), Place(4, 5, 6))
    assert found[:8] == bytes.fromhex("502a4d1840000000")
    assert found[8:] == struct.pack("<7Q", 1, 2, 3, 1, 4, 5, 6) + bytes.fromhex("474e556c496e5578")


def test_stargz_footer_to_the_byte() -> None:
    found = build_footer(Dialect.STARGZ, Place(1, 2, 3))
    assert found[:8] == bytes.fromhex("502a4d1828000000")
    assert found[8:] == struct.pack("<4Q", 1, 2, 3, 1) + bytes.fromhex("476e556c496e5578")


@given(st.sampled_from(Dialect), NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=100))
def test_footer_is_found_behind_anything(
    dialect: Dialect, off: int, size: int, unpacked: int, head: bytes
) -> None:
    place = Place(off, size, unpacked)
    assert find_place(head + build_footer(dialect, place)) == place


@given(st.binary(max_size=200))
def test_no_footer_in_any_bytes(tail: bytes) -> None:
    assert find_place(tail) is None


@pytest.mark.parametrize("dialect", Dialect)
def test_should_fail_to_find_a_changed_footer(dialect: Dialect) -> None:
    footer = build_footer(dialect, Place(1, 2, 3))
    for at in (*range(8), 8 + 24, *range(len(footer) - 8, len(footer))):
        assert find_place(footer[:at] + bytes([footer[at] ^ 1]) + footer[at + 1 :]) is None
    assert find_place(footer[1:]) is None


def test_decoders_pass_over_a_skippable_frame() -> None:
    data = zstandard.compress(b"a") + skippable_frame(b"junk") + zstandard.compress(b"b")
    assert zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read() == b"ab"


@pytest.mark.parametrize("dialect", Dialect)
def test_annotations(dialect: Dialect) -> None:
    digest = sha256_digest(b"toc")
    annotations = position_annotations(dialect, Place(10, 20, 30), digest)
    assert annotations[f"{dialect.value}.manifest-position"] == "10:20:30:1"
    assert find_position(annotations) == (Place(10, 20, 30), digest)
    voucher = read_voucher(annotations)
    assert voucher.binds
    voucher.check_packed(b"toc")
    voucher.check_json(b"nobody says what it is")
    with pytest.raises(DigestMismatch):
        voucher.check_packed(b"another")


def test_tar_split_annotation() -> None:
    assert tar_split_annotations(Place(7, 8, 9)) == {
        "io.github.containers.zstd-chunked.tarsplit-position": "7:8:9"
    }


def test_nothing_is_said() -> None:
    assert read_voucher({}) == NOTHING
    assert not NOTHING.binds
    # a place alone vouches for nothing
    assert not read_voucher({f"{Dialect.STARGZ.value}.manifest-position": "1:2:3:1"}).binds


@pytest.mark.parametrize(
    "text", ["", "1:2:3", "1:2:3:2", "1:2:3:1:", "-1:2:3:1", "a:2:3:1", "1:2:3:1\n", "9" * 20 + ":1:1:1"]
)
def test_should_fail_position_that_is_none(text: str) -> None:
    with pytest.raises(FormatError, match="no position"):
        read_voucher({f"{Dialect.PODMAN.value}.manifest-position": text})
