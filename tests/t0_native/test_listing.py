"""Directory entries as linux/fuse.h lays them out, read back by struct."""

import stat
import struct

import pytest

from crfs._native.listing import Listing

ENTRY = struct.Struct("=4Q2I 6Q 10I")
DIRENT = struct.Struct("=2Q2I")


# a name, what a dirent says of it, and what comes before that
Taken = tuple[bytes, tuple[int, ...], tuple[int, ...]]


def _taken(listing: Listing, plus: bool) -> list[Taken]:
    data = listing.taken_bytes()
    found: list[Taken] = []
    while data:
        entry = ENTRY.unpack_from(data) if plus else ()
        data = data[ENTRY.size if plus else 0 :]
        ino, off, size, kind = DIRENT.unpack_from(data)
        found.append((data[DIRENT.size : DIRENT.size + size], (ino, off, kind), entry))
        data = data[(DIRENT.size + size + 7) // 8 * 8 :]
    return found


@pytest.mark.parametrize("plus", [False, True])
def test_entries_come_in_order_until_there_is_no_room(plus: bool) -> None:
    listing, names = Listing(4096, plus), []
    for number in range(1000):
        name = b"n" * (number % 40 + 1)
        if not listing.has_room(name):
            break
        listing.add(name, number + 1, number + 7, stat.S_IFREG)
        names.append(name)
    assert 4096 - 300 < len(listing.taken_bytes()) <= 4096
    with pytest.raises(ValueError):
        listing.add(b"n" * 255, 0, 0, 0)
    kind = stat.S_IFREG >> 12
    assert [(name, dirent) for name, dirent, _ in _taken(listing, plus)] == [
        (name, (at + 7, at + 1, kind)) for at, name in enumerate(names)
    ]


def test_what_is_known_comes_with_the_name() -> None:
    listing = Listing(4096, True)
    times = (-1, 1_500_000_000, 0)
    listing.add_known(b"name", 3, 1 << 60, 1.5, 0.25, stat.S_IFCHR | 0o620, 2, 3, 4, 5, 6, 7, *times)
    listing.add(b"unknown", 4, 8, stat.S_IFDIR)
    known, unknown = _taken(listing, True)
    assert known[:2] == (b"name", (1 << 60, 3, stat.S_IFCHR >> 12))
    nodeid, generation, *seconds = known[2][:6]
    assert (nodeid, generation, seconds) == (1 << 60, 0, [1, 0, 500_000_000, 250_000_000])
    ino, size, blocks, atime, mtime, ctime, *words = known[2][6:]
    assert (ino, size, blocks) == (1 << 60, 6, 7)
    assert (atime, mtime, ctime) == (2**64 - 1, 1, 0)
    assert words == [999_999_999, 500_000_000, 0, stat.S_IFCHR | 0o620, 2, 3, 4, 5, 4096, 0]
    assert unknown[2] == (0,) * 22
