"""What docs/limits.md says of the engine fuse: calls that libfuse 2 does not know are refused as it says there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounting import run_program
from tests.support.overlaymounts import FuseOverlay
from tests.t6_mount.overlay.arena import Arena, mounted

_libc = ctypes.CDLL(None, use_errno=True)
# linux/falloc.h, linux/fs.h, linux/fiemap.h, linux/fsverity.h
_FALLOCATE = {"plain": 0, "keep": 1, "punch": 3, "zero": 0x10, "collapse": 8, "insert": 0x20}
_RENAME = {"noreplace": 1, "exchange": 2, "whiteout": 4}
_FIEMAP, _FICLONE, _VERITY = 0xC020660B, 0x40049409, 0x40806685
_GETFLAGS, _FSGETXATTR = 0x80086601, 0x801C581F
_AT_FDCWD = -100
# linux/posix_acl_xattr.h: version 2, entries of (tag, permissions, id)
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 7, 1000),
        (4, 4, 0xFFFFFFFF),
        (16, 7, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    )
)


def _called(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _fallocate(fd: int, mode: int) -> None:
    _called(_libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(4096)))


def _rename(place: Path, flags: int) -> None:
    ends = bytes(place / "file"), bytes(place / ("other" if flags == _RENAME["exchange"] else "new"))
    _called(_libc.renameat2(_AT_FDCWD, ends[0], _AT_FDCWD, ends[1], flags))


REFUSED: dict[str, tuple[int, Callable[[Path, int], object]]] = {
    **{
        f"fallocate-{name}": (errno.EOPNOTSUPP, lambda place, fd, mode=mode: _fallocate(fd, mode))  # type: ignore[misc]
        for name, mode in _FALLOCATE.items()
    },
    **{
        f"rename-{name}": (errno.EINVAL, lambda place, fd, flags=flags: _rename(place, flags))  # type: ignore[misc]
        for name, flags in _RENAME.items()
    },
    "fiemap": (errno.EOPNOTSUPP, lambda place, fd: fcntl.ioctl(fd, _FIEMAP, bytes(32))),
    "clone": (errno.EOPNOTSUPP, lambda place, fd: fcntl.ioctl(fd, _FICLONE, fd)),
    "verity": (errno.ENOTTY, lambda place, fd: fcntl.ioctl(fd, _VERITY, bytes(128))),
    "flags": (errno.ENOTTY, lambda place, fd: fcntl.ioctl(fd, _GETFLAGS, bytes(8))),
    "project": (errno.ENOTTY, lambda place, fd: fcntl.ioctl(fd, _FSGETXATTR, bytes(28))),
    "tmpfile": (errno.EOPNOTSUPP, lambda place, fd: os.open(place, os.O_TMPFILE | os.O_RDWR)),
    "acl": (errno.EOPNOTSUPP, lambda place, fd: os.setxattr(fd, "system.posix_acl_access", _ACL)),
    "read-acl": (errno.EOPNOTSUPP, lambda place, fd: os.getxattr(fd, "system.posix_acl_access")),
    "mark": (errno.EPERM, lambda place, fd: os.setxattr(fd, "trusted.overlay.opaque", b"y")),
    "whiteout": (errno.EPERM, lambda place, fd: os.mknod(place / "new", stat.S_IFCHR | 0o600, 0)),
}  # fmt: skip


@pytest.fixture
def place(arena: Arena, crfs_overlay: FuseOverlay) -> Iterator[Path]:
    """A writable mount with a few upper files."""
    base = arena.new_directory()
    (base / "lower").mkdir()
    with mounted(crfs_overlay, arena, (base / "lower",), base) as side:
        (side.at / "other").write_bytes(b"other")
        (side.at / "file").write_bytes(b"b" * 8192)
        yield side.at


def test_should_fail_with_what_is_documented(place: Path) -> None:
    fd = os.open(place / "file", os.O_RDWR)
    try:
        answers = {call: _answer(lambda run=run: run(place, fd)) for call, (_, run) in REFUSED.items()}  # type: ignore[misc]
    finally:
        os.close(fd)
    assert answers == {call: errno.errorcode[number] for call, (number, _) in REFUSED.items()}
    assert sorted(os.listdir(place)) == ["file", "other"]
    assert (place / "file").read_bytes() == b"b" * 8192


def _answer(run: Callable[[], object]) -> str:
    try:
        run()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def test_what_stands_in_for_it(place: Path) -> None:
    """posix_fallocate, copy_file_range and files with holes do without."""
    with (place / "file").open("r+b") as file, (place / "copy").open("w+b") as copy:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        assert os.copy_file_range(file.fileno(), copy.fileno(), 100_000) == 100_000
        copy.truncate(10 << 20)
        assert os.lseek(copy.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(copy.fileno(), 0, os.SEEK_HOLE) == 10 << 20
        assert os.fstat(copy.fileno()).st_blocks < 1000
    assert (place / "copy").read_bytes()[:100_000] == b"b" * 8192 + bytes(100_000 - 8192)


@pytest.mark.parametrize(("mode", "left"), [(0o6777, 0o777), (0o4666, 0o666), (0o2666, 0o666)])
def test_bits_that_a_writer_clears(place: Path, mode: int, left: int) -> None:
    path = place / "file"
    path.chmod(mode)
    run_program("sh", "-c", "echo >> file", cwd=place, user=1000)
    assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(left)
