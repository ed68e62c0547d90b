"""A copy is what the file was, and nobody sees that it came; what is out of the common run is not copied."""

import os
from pathlib import Path

import pytest

from crfs._native.copies import (
    copy_directory,
    copy_plain,
    exchange_whiteout,
    place_quietly,
    remove_flat,
)

WHEN_NS = (-1_234_567_890, 1_700_000_000_123_456_789)


@pytest.fixture
def work(tmp_path: Path) -> int:
    (tmp_path / "work").mkdir()
    return os.open(tmp_path / "work", os.O_RDONLY | os.O_DIRECTORY)


def _copy(source: Path, work: int) -> tuple[int, int, bool] | None:
    fd = os.open(source, os.O_RDONLY)
    try:
        return copy_plain(fd, work, b"staged", b"user.mark", b"value")
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144])
@pytest.mark.parametrize("mode", [0o600, 0o4755, 0o000])
def test_a_copy_is_what_the_file_was(tmp_path: Path, work: int, size: int, mode: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    source.chmod(mode)
    os.utime(source, ns=WHEN_NS)
    copied = _copy(source, work)
    assert copied is not None
    fd, number, marked = copied
    was, made = source.stat(), os.fstat(fd)
    assert (made.st_mode, made.st_uid, made.st_gid, made.st_mtime_ns, made.st_size) == (
        was.st_mode,
        was.st_uid,
        was.st_gid,
        was.st_mtime_ns,
        was.st_size,
    )
    assert made.st_ino == number
    assert os.pread(fd, size + 1, 0) == source.read_bytes()
    assert marked == (os.listxattr(fd) == ["user.mark"])
    os.close(fd)


def test_large_and_sparse_files_and_such_with_attributes_are_not_copied(tmp_path: Path, work: int) -> None:
    for name in ("large", "sparse", "marked"):
        (tmp_path / name).write_bytes(b"x" * (262_145 if name == "large" else 10))
    os.truncate(tmp_path / "sparse", 60_000)
    os.setxattr(tmp_path / "marked", "user.name", b"value")
    assert [_copy(tmp_path / name, work) for name in ("large", "sparse", "marked")] == [None] * 3
    assert os.listdir(work) == []


def test_should_fail_to_copy_over_what_is_there(tmp_path: Path, work: int) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "work/staged").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        _copy(tmp_path / "source", work)
    assert (tmp_path / "work/staged").read_bytes() == b"old"


def test_a_copied_directory_is_what_it_was_but_empty(tmp_path: Path, work: int) -> None:
    source = tmp_path / "above/source"
    source.mkdir(parents=True)
    (source / "file").touch()
    source.chmod(0o2751)
    os.utime(source, ns=WHEN_NS)
    fd = os.open(tmp_path, os.O_RDONLY)
    number = copy_directory(fd, b"above/source", work, b"staged")
    was, made = source.stat(), os.stat(tmp_path / "work/staged")
    assert (made.st_mode, made.st_uid, made.st_gid, made.st_mtime_ns, made.st_ino) == (
        was.st_mode,
        was.st_uid,
        was.st_gid,
        was.st_mtime_ns,
        number,
    )
    assert os.listdir(tmp_path / "work/staged") == []
    os.setxattr(source, "user.name", b"value")
    assert copy_directory(fd, b"above/source", work, b"other") is None
    os.removexattr(source, "user.name")
    with pytest.raises(FileExistsError):
        copy_directory(fd, b"above/source", work, b"staged")
    assert os.listdir(work) == ["staged"]
    os.close(fd)


def test_what_is_placed_leaves_times_alone(tmp_path: Path, work: int) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "name").write_bytes(b"old")
    (tmp_path / "work/staged").write_bytes(b"new")
    os.utime(into, ns=WHEN_NS)
    fd = os.open(into, os.O_PATH)
    place_quietly(work, b"staged", fd, b"name")
    assert (into / "name").read_bytes() == b"new"
    assert (into.stat().st_atime_ns, into.stat().st_mtime_ns) == WHEN_NS
    with pytest.raises(FileNotFoundError):
        place_quietly(work, b"staged", fd, b"name")
    os.close(fd)


def test_a_whiteout_takes_a_directorys_place_which_goes(tmp_path: Path, work: int) -> None:
    (tmp_path / "work/whiteout").write_bytes(b"hides")
    (tmp_path / "dir/below").mkdir(parents=True)
    (tmp_path / "dir/file").touch()
    fd = os.open(tmp_path, os.O_PATH)
    assert not exchange_whiteout(work, b"missing", b"staged", fd, b"dir")
    assert not exchange_whiteout(work, b"whiteout", b"staged", fd, b"missing")
    assert os.listdir(work) == ["whiteout"]
    assert exchange_whiteout(work, b"whiteout", b"staged", fd, b"dir")
    assert (tmp_path / "dir").read_bytes() == b"hides"
    assert not remove_flat(work, b"staged")
    assert os.listdir(tmp_path / "work/staged") == ["below"]
    (tmp_path / "work/staged/below").rmdir()
    (tmp_path / "work/staged/link").symlink_to("nowhere")
    assert remove_flat(work, b"staged")
    assert os.listdir(work) == ["whiteout"]
    os.close(fd)
