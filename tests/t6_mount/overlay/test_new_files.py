"""Files and directories that were just made: most of what is asked of them is answered where it is received."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena, mounted
from tests.t6_mount.overlay.stacks import Layer, build

WHEN_NS = 1_000_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def _fill(layer: Layer) -> None:
    layer.directory(b"dir")
    layer.file(b"dir/below", b"below")


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    return build([_fill], arena.new_directory())


@pytest.fixture
def root(arena: Arena, overlay: Mounter, lowers: tuple[Path, ...]) -> Iterator[Path]:
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        yield side.at


@pytest.fixture
def file(root: Path) -> Iterator[int]:
    """A new file, open."""
    (root / "new").mkdir()
    fd = os.open(root / "new/file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    yield fd
    os.close(fd)


def test_attributes_are_those_that_were_set(root: Path, file: int) -> None:
    os.fchown(file, 12, 34)
    os.fchmod(file, 0o705)
    os.utime(file, ns=(WHEN_NS, WHEN_NS + 1))
    os.write(file, b"x" * 5000)
    for info in (os.fstat(file), os.stat(root / "new/file")):
        assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_size) == (0o705, 12, 34, 5000)
        assert info.st_atime_ns == WHEN_NS
    os.ftruncate(file, 10)
    assert os.fstat(file).st_size == 10
    assert abs(os.fstat(file).st_mtime - time.time()) < 60


def test_an_owner_alone_and_a_time_alone_leave_the_other(root: Path, file: int) -> None:
    os.fchown(file, 12, -1)
    os.fchown(file, -1, 34)
    os.utime(file, ns=(WHEN_NS, WHEN_NS))
    os.utime(file)
    info = os.fstat(file)
    assert (info.st_uid, info.st_gid) == (12, 34)
    assert min(info.st_atime, info.st_mtime) > time.time() - 60


def test_special_bits_go_with_a_change_of_owner(root: Path, file: int) -> None:
    os.fchmod(file, 0o6755)
    os.fchown(file, 12, 34)
    assert stat.S_IMODE(os.fstat(file).st_mode) == 0o755
    os.fchmod(file, 0o4700)
    os.utime(file, ns=(WHEN_NS, WHEN_NS))
    assert stat.S_IMODE(os.fstat(file).st_mode) == 0o4700


def test_capabilities_go_when_a_file_is_written_to(root: Path, file: int) -> None:
    os.write(file, b"before")
    os.setxattr(file, "security.capability", CAPABILITY)
    assert os.getxattr(root / "new/file", "security.capability") == CAPABILITY
    os.write(file, b"after")
    assert os.listxattr(file) == []


def test_names_that_are_missing_appear_with_what_is_made(root: Path, file: int) -> None:
    new = root / "new"
    assert not (new / "name").exists()
    (new / "name").write_bytes(b"made")
    (new / "name").rename(new / "other")
    assert not (new / "name").exists()
    assert (new / "other").read_bytes() == b"made"
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        (new / ("n" * 256)).stat()


def test_a_directory_made_over_a_lower_one_shows_nothing_of_it(root: Path, file: int) -> None:
    (root / "dir/below").unlink()
    (root / "dir").rmdir()
    (root / "dir").mkdir()
    assert not (root / "dir/below").exists()
    (root / "new").rename(root / "dir/moved")
    assert (root / "dir/moved/file").exists()
    os.write(file, b"written")
    assert (root / "dir/moved/file").read_bytes() == b"written"


def test_a_directory_that_is_gone_shows_nothing(root: Path) -> None:
    (root / "gone").mkdir()
    fd = os.open(root / "gone", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (root / "gone").rmdir()
        with pytest.raises(FileNotFoundError):
            os.stat("name", dir_fd=fd)
        with pytest.raises(FileNotFoundError):
            os.open("name", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


def test_a_file_stays_the_same_however_it_is_reached(root: Path, file: int) -> None:
    new, number = root / "new", os.fstat(file).st_ino
    os.write(file, b"written")
    os.link(new / "file", new / "linked")
    os.rename(new / "file", new / "moved")
    for name in ("linked", "moved"):
        info = (new / name).stat()
        assert (info.st_ino, info.st_nlink, info.st_size) == (number, 2, 7)
    with open(new / "linked", "ab") as other:
        other.write(b" again")
    assert os.pread(file, 100, 0) == b"written again"
    assert {entry.name: entry.inode() for entry in os.scandir(new)} == {"linked": number, "moved": number}


def test_a_file_without_a_name_can_be_used_until_it_is_closed(root: Path, file: int) -> None:
    new, number = root / "new", os.fstat(file).st_ino
    os.unlink(new / "file")
    (new / "file").write_bytes(b"another one")
    os.write(file, b"first")
    os.fchmod(file, 0o4755)
    os.setxattr(file, "user.name", b"value")
    info = os.fstat(file)
    assert (info.st_ino, info.st_nlink, stat.S_IMODE(info.st_mode)) == (number, 0, 0o4755)
    assert os.pread(file, 100, 0) == b"first"
    assert (new / "file").stat().st_ino != number
    assert (new / "file").read_bytes() == b"another one"


def test_what_is_closed_is_opened_and_removed_again(root: Path) -> None:
    new = root / "new"
    new.mkdir()
    for round in range(3):
        for number in range(50):
            (new / f"{number}").write_bytes(b"%d" % number * 100)
        os.rename(new / "0", new / "1")
        assert sorted(os.listdir(new), key=int) == [str(number) for number in range(1, 50)]
        assert (new / "1").read_bytes() == b"0" * 100
        assert (new / "49").read_bytes() == b"49" * 100
        for path in new.iterdir():
            path.unlink()
        assert os.listdir(new) == [], round
    new.rmdir()


def test_a_setgid_directory_hands_its_group_on(root: Path) -> None:
    new = root / "new"
    new.mkdir()
    os.chown(new, 0, 34)
    (new / "before").touch()
    new.chmod(0o2775)
    (new / "after").touch()
    new.chmod(0o775)
    assert [(new / name).stat().st_gid for name in ("before", "after")] == [0, 34]


def test_what_is_listed_is_what_is_there(root: Path) -> None:
    (root / "dir/new").write_bytes(b"new")
    (root / "dir/below").unlink()
    (root / "dir/below").symlink_to("new")
    (root / "dir/inner").mkdir()
    with os.scandir(root / "dir") as entries:
        found = {entry.name: entry for entry in entries}
    assert sorted(found) == ["below", "inner", "new"]
    for name, entry in found.items():
        info = (root / "dir" / name).lstat()
        assert (entry.inode(), entry.is_symlink()) == (info.st_ino, name == "below")
        assert entry.stat(follow_symlinks=False) == info
