"""Directories nested deeper than a program's stack or table of descriptors is, or a path can say."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import Crfs, run_program
from tests.support.overlaymounts import FuseOverlay, mounters
from tests.t6_mount.overlay.arena import Arena, mounted

_DEPTH = 1100
_LOWER_DEPTH = 1050


def nest(top: Path, depth: int, name: str = "d") -> int:
    """Make directories in each other; a descriptor of the innermost."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        fd = inner(fd, name)
    return fd


def inner(outer: int, name: str) -> int:
    """A directory in an open one, which is closed."""
    fd = os.open(name, os.O_RDONLY, dir_fd=outer)
    os.close(outer)
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
        innermost = os.open(side.at / "moved" / "/".join(["d"] * _LOWER_DEPTH), os.O_RDONLY)
        write(innermost)
        os.close(innermost)
        side.remount()
        found = run_program("find", side.at, "-name", "file")
        assert sorted(path.count(b"/d") for path in found.split()) == [_LOWER_DEPTH, _DEPTH]
        run_program("rm", "-r", side.at / "first", side.at / "second", side.at / "moved")
        assert os.listdir(side.at) == []


def innermost(top: Path, depth: int, name: str) -> int:
    """A descriptor of it."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        fd = inner(fd, name)
    return fd


@pytest.mark.parametrize("engine", ["crfs", "crfs-overlay"])
def test_no_path_is_that_long(arena: Arena, crfs: Crfs, engine: str) -> None:
    """Lower names that are read, changed and removed two path lengths below the lower directory."""
    base, name, depth = arena.new_directory(), "n" * 255, 33
    (base / "lower").mkdir()
    fd = nest(base / "lower/top", depth, name)
    for file in ("kept", "changed", "removed"):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.setxattr(f"/proc/self/fd/{fd}/kept", "user.a", b"a")
    os.link("kept", "linked", src_dir_fd=fd, dst_dir_fd=fd)
    os.symlink("kept", "link", dir_fd=fd)
    os.close(fd)
    with mounted(mounters(crfs.environment)[engine], arena, (base / "lower",), base) as side:
        fd = innermost(side.at / "top", depth, name)
        assert os.getxattr(f"/proc/self/fd/{fd}/kept", "user.a") == b"a"
        assert os.readlink("link", dir_fd=fd) == "kept"
        assert os.stat("linked", dir_fd=fd).st_nlink == 2
        os.chmod("linked", 0o600, dir_fd=fd)
        changed = os.open("changed", os.O_WRONLY, dir_fd=fd)
        os.write(changed, b"changed")
        os.close(changed)
        os.unlink("removed", dir_fd=fd)
        os.close(fd)
        side.remount()
        fd = innermost(side.at / "top", depth, name)
        assert sorted(os.listdir(fd)) == ["changed", "kept", "link", "linked"]
        assert (os.stat("changed", dir_fd=fd).st_size, os.stat("linked", dir_fd=fd).st_mode & 0o777) == (
            7,
            0o600,
        )
        os.close(fd)
        run_program("rm", "-r", side.at / "top")
        assert os.listdir(side.at) == []
    run_program("rm", "-r", base)
