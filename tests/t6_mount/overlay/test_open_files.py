"""Files that are open while their names go, are replaced, or are copied up; mappings; locks."""

import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.stacks import Layer, build

HOLES = 4 << 20


def _fill(layer: Layer) -> None:
    layer.file(b"file", b"lower bytes\n")
    layer.file(b"other", b"other\n")
    layer.link(b"file", b"link")
    layer.file(b"sparse", b"in the middle", holes=HOLES)
    layer.file(b"mapped", b"m" * 10_000)
    layer.directory(b"dir")
    layer.file(b"dir/x", b"x")


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    return build([_fill], arena.new_directory())


@pytest.fixture
def root(arena: Arena, overlay: Mounter, lowers: tuple[Path, ...]) -> Iterator[Path]:
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        yield side.at


@pytest.fixture
def side(arena: Arena, crfs_overlay: Mounter, lowers: tuple[Path, ...]) -> Iterator[Side]:
    """Ours only: the kernel's keeps a mapping of the lower file."""
    with mounted(crfs_overlay, arena, lowers, arena.new_directory()) as side:
        yield side


def test_a_reader_sees_what_is_written_later(root: Path) -> None:
    """Through another handle, by another name, before and after the names are gone."""
    with (root / "file").open("rb", buffering=0) as reader:
        number = os.fstat(reader.fileno()).st_ino
        assert reader.read(5) == b"lower"
        with (root / "link").open("r+b", buffering=0) as writer:
            writer.write(b"UPPER")
            assert os.pread(reader.fileno(), 11, 0) == b"UPPER bytes"
            (root / "file").unlink()
            (root / "link").unlink()
            writer.write(b"-BYTES and more")
            assert os.pread(reader.fileno(), 100, 0) == b"UPPER-BYTES and more"
        assert (os.fstat(reader.fileno()).st_ino, os.fstat(reader.fileno()).st_nlink) == (number, 0)
    assert not (root / "link").exists()


def test_a_replaced_file_stays_what_it_was(root: Path) -> None:
    with (root / "file").open("rb", buffering=0) as reader:
        (root / "new").write_bytes(b"new")
        os.rename(root / "new", root / "file")
        assert reader.read() == b"lower bytes\n"
        os.rename(root / "other", root / "link")
        assert os.pread(reader.fileno(), 100, 0) == b"lower bytes\n"
        assert os.fstat(reader.fileno()).st_ino != (root / "file").stat().st_ino
    assert ((root / "file").read_bytes(), (root / "link").read_bytes()) == (b"new", b"other\n")


def test_truncated_when_opened(root: Path) -> None:
    with (root / "file").open("rb", buffering=0) as reader:
        with (root / "file").open("wb", buffering=0) as writer:
            assert os.fstat(reader.fileno()).st_size == 0
            assert reader.read() == b""
            writer.write(b"fresh")
        assert os.pread(reader.fileno(), 100, 0) == b"fresh"
    assert (root / "link").read_bytes() == b"fresh"


def test_handles_of_every_kind_agree(root: Path) -> None:
    """Appending, positioned, and through a directory that was moved meanwhile."""
    directory = os.open(root / "dir", os.O_RDONLY | os.O_DIRECTORY)
    try:
        appending = os.open("x", os.O_WRONLY | os.O_APPEND, dir_fd=directory)
        os.rename(root / "dir", root / "moved")
        os.write(appending, b"1")
        both = os.open("x", os.O_RDWR, dir_fd=directory)
        os.write(both, b"X")
        os.write(appending, b"2")
        assert os.pread(both, 10, 0) == (root / "moved/x").read_bytes() == b"X12"
        os.close(appending)
        os.close(both)
    finally:
        os.close(directory)


def test_holes_are_kept(root: Path) -> None:
    with (root / "sparse").open("r+b", buffering=0) as file:
        file.seek(0)
        file.write(b"begin")
        file.truncate(3 * HOLES)
    status = (root / "sparse").stat()
    assert status.st_size == 3 * HOLES
    assert status.st_blocks * 512 < HOLES / 2
    content = (root / "sparse").read_bytes()
    assert content[:5] == b"begin"
    assert content[HOLES : HOLES + 13] == b"in the middle"
    assert not content[5:HOLES].strip(b"\0")


def test_shared_mappings(side: Side) -> None:
    """One of before the copy-up, and one that writes: both are the file."""
    path = side.at / "mapped"
    with path.open("rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as before:
        assert before[:3] == b"mmm"
        with path.open("r+b") as writer, mmap.mmap(writer.fileno(), 0) as mapped:
            mapped[4090:4100] = b"0123456789"
            assert before[4090:4100] == b"0123456789"
            os.pwrite(writer.fileno(), b"written", 0)
            assert mapped[:7] == before[:7] == b"written"
            path.unlink()
            mapped[9_990:] = b"the end..."
            mapped.flush()
            assert os.pread(reader.fileno(), 10, 9_990) == b"the end..."


def test_mapped_writes_last(side: Side) -> None:
    with (side.at / "mapped").open("r+b") as writer, mmap.mmap(writer.fileno(), 0) as mapped:
        mapped[5000:5004] = b"here"
    side.remount()
    assert (side.at / "mapped").read_bytes()[4999:5005] == b"mherem"


_TRY = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    for lock in fcntl.flock, fcntl.lockf:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("taken", end=" ")
        except BlockingIOError:
            print("refused", end=" ")
"""


def _locks(path: Path) -> list[str]:
    """Whether another process gets flock(2)'s and fcntl(2)'s lock of a file."""
    command = [sys.executable, "-c", _TRY, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_locks(root: Path) -> None:
    with (root / "file").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _locks(root / "link") == ["refused", "taken"]
        fcntl.lockf(file, fcntl.LOCK_EX, 4, 2)
        assert _locks(root / "file") == ["refused", "refused"]
        fcntl.flock(file, fcntl.LOCK_UN)
        assert _locks(root / "file") == ["taken", "refused"]
    assert _locks(root / "file") == ["taken", "taken"]
