"""Where the upper directory's disk is full, the caller hears of it, and nothing half-written is seen."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounting import wait_until
from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.conftest import DISK_SIZE

_PIECE = 1 << 16
LARGE = os.urandom(_PIECE) * (DISK_SIZE // _PIECE + 1)
NAMES = 150


@pytest.fixture
def side(arena: Arena, overlay: Mounter, tmp_path: Path, small_disk: Path) -> Iterator[Side]:
    """Over a file that is larger than the disk, and more small ones than it has inodes."""
    lower = tmp_path / "lower"
    (lower / "many").mkdir(parents=True)
    (lower / "large").write_bytes(LARGE)
    (lower / "large").chmod(0o640)
    for number in range(NAMES):
        (lower / f"many/{number}").write_text(f"{number}")
    with mounted(overlay, arena, (lower,), small_disk) as found:
        yield found


@contextlib.contextmanager
def no_space() -> Iterator[None]:
    """What is done in it fails with ENOSPC."""
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == errno.ENOSPC


def append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"more")
        os.fsync(file.fileno())


def fill(path: Path) -> int:
    """Write a file until there is no more space; how much went in."""
    size = 0
    with path.open("wb", buffering=0) as file, no_space():
        while True:
            size += file.write(LARGE[size : size + _PIECE])
    return size


CHANGES: dict[str, Callable[[Path], object]] = {
    "append": append,
    "truncate": lambda path: os.truncate(path, len(LARGE) - 1),
    "chmod": lambda path: path.chmod(0o600),
    "chown": lambda path: os.chown(path, 1000, 1000),
    "utime": lambda path: os.utime(path, (1, 1)),
    "xattr": lambda path: os.setxattr(path, "user.a", b"value"),
    "rename": lambda path: path.rename(path.with_name("other")),
    "link": lambda path: path.with_name("other").hardlink_to(path),
}


def test_should_fail_to_change_what_does_not_fit(side: Side) -> None:
    path, before = side.at / "large", os.lstat(side.at / "large")
    for change in CHANGES.values():
        with no_space():
            change(path)
        assert sorted(os.listdir(side.at)) == ["large", "many"]
        assert os.listdir(side.upper) == []
        assert side.left_over() == []
    for _ in range(2):
        after = os.lstat(path)
        assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (0o100640, 0, before.st_mtime_ns)
        assert path.read_bytes() == LARGE
        side.remount()
    path.unlink()
    path.write_bytes(b"what was taken is free again" * 10_000)


def test_should_fail_to_write_more_than_fits(side: Side) -> None:
    path = side.at / "new"
    size = fill(path)
    assert size > DISK_SIZE // 2
    assert path.read_bytes() == LARGE[: path.stat().st_size]
    assert path.stat().st_size >= size
    side.remount()
    assert path.read_bytes() == LARGE[: path.stat().st_size]
    path.unlink()
    path.write_bytes(LARGE[: 1 << 20])
    assert path.read_bytes() == LARGE[: 1 << 20]


def test_should_fail_before_a_file_is_replaced(side: Side) -> None:
    """As editors and package managers do it: the new file first, and a rename over the old one."""
    wanted = side.at / "many/7"
    fill(side.at / "many/7.new")
    with no_space():
        (side.at / "many/8").write_bytes(LARGE[:_PIECE])
    for _ in range(2):
        assert wanted.read_text() == "7"
        assert (side.at / "many/9").read_text() == "9"
        side.remount()
    taken = os.statvfs(side.upper).f_bfree
    (side.at / "many/7.new").unlink()
    # FUSE tells of a file's end a moment after the last name is gone
    wait_until(lambda: os.statvfs(side.upper).f_bfree > taken, 10)
    append(wanted)
    assert wanted.read_bytes() == b"7more"


def test_should_fail_without_inodes(side: Side) -> None:
    """A copy-up is refused; a removal, which needs a whiteout, is done or refused, and so it stays."""
    with no_space():
        for number in range(NAMES):
            (side.at / f"new{number}").touch()
    with no_space():
        (side.at / "many/1").chmod(0o600)
    removed = {name for name in map(str, range(NAMES)) if try_to_remove(side.at / "many" / name)}
    for _ in range(2):
        there = os.listdir(side.at / "many")
        assert set(there) == set(map(str, range(NAMES))) - removed
        assert all((side.at / "many" / name).read_text() == name for name in there)
        # the kernel's can't be mounted without a free inode
        for number in range(5):
            (side.at / f"new{number}").unlink(missing_ok=True)
        side.remount()


def try_to_remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True
