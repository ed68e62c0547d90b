"""How ids are mapped between disk and mount; fuse-overlayfs itself is the judge of it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.integrations.fuseoverlayfs import parse_request, parse_words
from crfs.integrations.idmap import IdMap, IdRange, load_overflow_ids
from crfs.integrations.overlayrequest import id_maps
from tests.t6_integrations.fuseoverlayfs import fuse_overlayfs

_ID = st.integers(0, 2**32 - 1)
OVERFLOW = 65534


@st.composite
def _disjoint(draw: st.DrawFn) -> tuple[IdRange, ...]:
    """Ranges that overlap on neither side."""
    lengths = draw(st.lists(st.integers(0, 5000), max_size=5))
    gaps = st.integers(0, 5000)
    ranges, host, to = [], draw(gaps), draw(gaps)
    for length in lengths:
        ranges.append(IdRange(host, to, length))
        host += length + draw(gaps)
        to += length + draw(gaps)
    return tuple(draw(st.permutations(ranges)))


@given(_ID)
def test_without_ranges_nothing_changes(number: int) -> None:
    assert IdMap().is_identity
    assert IdMap().to_shown(number) == IdMap().to_disk(number) == number


@given(_disjoint(), _ID | st.integers(0, 60000))
def test_there_and_back(ranges: tuple[IdRange, ...], number: int) -> None:
    ids = IdMap(ranges, overflow=OVERFLOW)
    hosts = {part.host + at for part in ranges for at in range(part.length)}
    shown = ids.to_shown(number)
    if number in hosts or not ranges:
        assert ids.to_disk(shown) == number
    else:
        assert shown == OVERFLOW


@given(_disjoint(), _ID | st.integers(0, 60000))
def test_back_and_there(ranges: tuple[IdRange, ...], number: int) -> None:
    ids = IdMap(ranges, overflow=OVERFLOW)
    tos = {part.to + at for part in ranges for at in range(part.length)}
    disk = ids.to_disk(number)
    if number in tos or not ranges:
        assert ids.to_shown(disk) == number
    else:
        assert disk == OVERFLOW


@given(_disjoint(), _ID, _ID)
def test_squash_shows_one_id_and_writes_what_is_mapped(
    ranges: tuple[IdRange, ...], squash: int, number: int
) -> None:
    ids = IdMap(ranges, squash, OVERFLOW)
    assert not ids.is_identity
    assert ids.to_shown(number) == squash
    assert ids.to_disk(number) == IdMap(ranges, None, OVERFLOW).to_disk(number)


def test_of_ranges_that_overlap_the_last_counts() -> None:
    ids = IdMap((IdRange(0, 100, 10), IdRange(5, 200, 10)))
    assert [ids.to_shown(number) for number in (4, 5, 9, 14, 15)] == [104, 200, 204, 209, OVERFLOW]


def test_overflow_ids_are_the_kernels() -> None:
    names = ("overflowuid", "overflowgid")
    assert load_overflow_ids() == tuple(int(Path("/proc/sys/kernel", name).read_text()) for name in names)


IDS = (0, 1, 4, 5, 9, 10, 1000, 65534, 100000)
MAPPINGS = [
    "timeout=1",
    "uidmapping=0:1000:1:1:100000:65536,gidmapping=0:10:5",
    "uidmapping=0:100:10:5:200:10,gidmapping=1000:0:1:5:5:1",
    "uidmapping=0:0:0",
    "squash_to_root",
    "squash_to_uid=7",
    "squash_to_gid=8,squash_to_uid=9",
    "squash_to_uid=7,squash_to_root,gidmapping=0:1:1",
    "uidmapping=0:5:10,squash_to_gid=3",
]


@pytest.mark.parametrize("options", MAPPINGS)
def test_as_fuse_overlayfs_shows_and_writes(tmp_path: Path, options: str) -> None:
    for name in ("low", "up", "work"):
        (tmp_path / name).mkdir()
    for number in IDS:
        (tmp_path / f"low/{number}").touch()
        os.chown(tmp_path / f"low/{number}", number, number)
    line = f"lowerdir=low,upperdir=up,workdir=work,{options}"
    uids, gids = id_maps(parse_request(parse_words(["-o", line, "m"]), tmp_path), load_overflow_ids())
    with fuse_overlayfs(tmp_path, line) as at:
        shown = {number: _owner(at / f"{number}") for number in IDS}
        for number in IDS:
            (at / f"new{number}").touch()
            os.chown(at / f"new{number}", number, number)
    written = {number: _owner(tmp_path / f"up/new{number}") for number in IDS}
    assert shown == {number: (uids.to_shown(number), gids.to_shown(number)) for number in IDS}
    assert written == {number: (uids.to_disk(number), gids.to_disk(number)) for number in IDS}


def _owner(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_uid, info.st_gid
