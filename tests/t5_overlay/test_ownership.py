"""Where owner, mode and type are kept: in inodes, or in an extended attribute of each file. Needs no root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.formats.overridestat import XattrPermissions, parse_override
from crfs.overlay.attributes import Attributes
from crfs.overlay.ownership import InInodes, Owner, Recorded, find_recorded, upper_ownership

CONTAINERS = b"user.containers.override_stat"
THEIRS = b"user.fuseoverlayfs.override_stat"
DEVICE = os.makedev(7, 200)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def _made(ownership: InInodes, fd: int, mode: int, rdev: int = 0) -> Attributes:
    """What stat shows of something new that is named `new` and is 1000's."""
    ownership.mknod(fd, b"new", mode, rdev)
    ownership.own(fd, b"new", mode, rdev, Owner(1000, 1001))
    return _shown(ownership, fd)


def _path(fd: int) -> bytes:
    return b"/proc/self/fd/%d/new" % fd


def _shown(ownership: InInodes, fd: int) -> Attributes:
    return ownership.attributes(_path(fd), os.stat(_path(fd), follow_symlinks=False))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
def test_recorded_files_are_regular(fd: int, tmp_path: Path, kind: int) -> None:
    rdev = DEVICE if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    recorded = Recorded(CONTAINERS)
    shown = _made(recorded, fd, kind | 0o4620, rdev)
    assert (shown.mode, shown.uid, shown.gid, shown.rdev) == (kind | 0o4620, 1000, 1001, rdev)
    assert (tmp_path / "new").stat().st_mode & ~0o022 == stat.S_IFREG | 0o755
    recorded.chown(_path(fd), -1, 7)
    recorded.chmod(_path(fd), kind | 0o600)
    shown = _shown(recorded, fd)
    assert (shown.mode, shown.uid, shown.gid, shown.rdev) == (kind | 0o600, 1000, 7, rdev)


def test_symbolic_links_hold_no_record(fd: int, tmp_path: Path) -> None:
    (tmp_path / "new").symlink_to("nowhere")
    recorded = Recorded(CONTAINERS)
    recorded.chown(_path(fd), 1000, 1000)
    assert _shown(recorded, fd).uid == os.geteuid()
    assert stat.S_ISLNK(_shown(recorded, fd).mode)


def test_upper_directory_says_how_it_is_recorded(fd: int, tmp_path: Path) -> None:
    assert type(upper_ownership(fd, XattrPermissions.OFF, None, squashed=False)) is InInodes
    assert find_recorded(fd) is None
    upper_ownership(fd, XattrPermissions.USER, None, squashed=False)
    record = parse_override(os.getxattr(tmp_path, CONTAINERS))
    assert (record.uid, record.mode) == (os.geteuid(), tmp_path.stat().st_mode)
    for permissions in (XattrPermissions.OFF, XattrPermissions.USER):
        found = upper_ownership(fd, permissions, None, squashed=False)
        assert isinstance(found, Recorded)
        assert found.name == CONTAINERS


def test_record_of_fuse_overlayfs_is_kept(fd: int) -> None:
    os.setxattr(fd, THEIRS, b"0:0:40755")
    found = upper_ownership(fd, XattrPermissions.USER, None, squashed=False)
    assert isinstance(found, Recorded)
    assert found.name == THEIRS


@pytest.mark.parametrize("record", [b"1:2:20644", b"1:2:100644:dir", b"1:2:0644:symlink", b"1:2:0644"])
def test_types_that_a_file_does_not_stand_for(fd: int, record: bytes) -> None:
    """A device without a number, as fuse-overlayfs writes it, a directory, a symbolic link: it is a file."""
    os.close(os.open(b"new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.setxattr(_path(fd), CONTAINERS, record)
    shown = _shown(Recorded(CONTAINERS), fd)
    assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o644, 1, 2)
