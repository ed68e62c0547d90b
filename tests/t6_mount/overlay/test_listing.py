"""Directories that change while they are read: what was there all the time comes once, what never was doesn't come."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dirstream import Stream
from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena, mounted
from tests.t6_mount.overlay.stacks import Layer, build

MANY = 3000


def names_of(stream: Stream) -> Iterator[str]:
    """What is left to come, without the directory itself and its parent."""
    for entry in stream:
        if entry.name not in (b".", b".."):
            yield os.fsdecode(entry.name)


def _lower(layer: Layer) -> None:
    layer.directory(b"wide", 0o777)
    for number in range(MANY):
        layer.file(b"wide/lower-%d" % number)


def _over(layer: Layer) -> None:
    layer.directory(b"wide", 0o777)
    for number in range(0, MANY, 100):
        layer.whiteout(b"wide/lower-%d" % number)
        layer.file(b"wide/over-%d" % number)


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    return build([_lower, _over], arena.new_directory())


@pytest.fixture
def wide(arena: Arena, overlay: Mounter, lowers: tuple[Path, ...]) -> Iterator[Path]:
    """A merged directory of many names, some of them new."""
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        for number in range(500):
            (side.at / f"wide/new-{number}").touch()
        yield side.at / "wide"


def test_names_go_and_come_while_it_is_read(wide: Path) -> None:
    names, order = set(os.listdir(wide)), random.Random(3)
    gone, seen = set[str](), list[str]()
    with Stream(wide) as stream:
        for name in names_of(stream):
            seen.append(name)
            if len(seen) % 5 == 0:
                gone.add(victim := order.choice(sorted(names - gone)))
                (wide / victim).unlink()
            if len(seen) % 50 == 0:
                (wide / f"come-{len(seen)}").touch()
                os.rename(wide / name, wide / f"moved-{len(seen)}") if name not in gone else None
                gone.add(name)
    steady = names - gone
    assert len(gone) > 500
    assert len(seen) == len(set(seen))
    assert steady <= set(seen)
    assert all(name in names or name.startswith(("come-", "moved-")) for name in seen)


def test_removed_as_it_is_read(wide: Path) -> None:
    """As rm -r does it: nothing is left, after one pass."""
    with Stream(wide) as stream:
        for name in names_of(stream):
            (wide / name).unlink()
    assert os.listdir(wide) == []
    wide.rmdir()


def test_a_place_in_a_directory_is_found_again(wide: Path) -> None:
    with Stream(wide) as stream:
        places = []
        for _ in range(MANY // 2):
            places.append(stream.tell())
            next(names_of(stream), None)
        place = stream.tell()
        rest = list(names_of(stream))
        assert next(names_of(stream), None) is None
        stream.seek(place)
        assert list(names_of(stream)) == rest
        # what is removed may come, and nothing else changes
        for name in rest[::3]:
            (wide / name).unlink()
        stream.seek(place)
        again = list(names_of(stream))
        assert [name for name in again if name not in rest[::3]] == [
            name for at, name in enumerate(rest) if at % 3
        ]
        stream.seek(places[10])
        assert len(list(names_of(stream))) >= len(rest) + len(places) - 20 - len(rest[::3])


def test_from_the_beginning_it_is_as_it_is_now(wide: Path) -> None:
    with Stream(wide) as stream:
        first = list(names_of(stream))
        for name in first[:1000]:
            (wide / name).unlink()
        (wide / "new").touch()
        os.rename(wide / first[1000], wide / "moved")
        assert next(names_of(stream), None) is None
        stream.rewind()
        second = list(names_of(stream))
    assert sorted(second) == sorted([*first[1001:], "new", "moved"])
    assert sorted(second) == sorted(os.listdir(wide))


def test_a_removed_directory_has_nothing(wide: Path) -> None:
    with Stream(wide) as stream, Stream(wide) as untouched:
        next(names_of(stream), None)
        for name in os.listdir(wide):
            (wide / name).unlink()
        wide.rmdir()
        wide.mkdir()
        (wide / "another").touch()
        untouched.rewind()
        assert list(names_of(untouched)) == []
