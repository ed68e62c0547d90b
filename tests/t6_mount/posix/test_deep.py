"""Directories nested deeper than a program's stack or table of descriptors is."""

import os
from pathlib import Path

from tests.support.mounting import run_program
from tests.support.overlaymounts import FuseOverlay
from tests.t6_mount.overlay.arena import Arena, mounted

_DEPTH = 1100
_LOWER_DEPTH = 1050


def nest(top: Path, depth: int) -> int:
    """Make directories in each other; a descriptor of the innermost."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    return fd


def write(directory: int) -> None:
    """A file in an open directory."""
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=directory))


def test_deep(arena: Arena, crfs_overlay: FuseOverlay) -> None:
    base = arena.new_directory()
    (base / "lower").mkdir()
    os.close(nest(base / "lower/lower", _LOWER_DEPTH))
    with mounted(crfs_overlay, arena, (base / "lower",), base) as side:
        first = nest(side.at / "first", _DEPTH)
        # of so many directories not all are kept open
        os.close(nest(side.at / "second", _DEPTH))
        write(first)
        os.close(first)
        (side.at / "lower").rename(side.at / "moved")
        inner = os.open(side.at / "moved" / "/".join(["d"] * _LOWER_DEPTH), os.O_RDONLY)
        write(inner)
        os.close(inner)
        side.remount()
        found = run_program("find", side.at, "-name", "file")
        assert sorted(path.count(b"/d") for path in found.split()) == [_LOWER_DEPTH, _DEPTH]
        run_program("rm", "-r", side.at / "first", side.at / "second", side.at / "moved")
        assert os.listdir(side.at) == []
