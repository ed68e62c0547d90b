"""A lower directory's names are what os.stat says of them, without whiteouts; nothing is left where nobody takes it."""

import os
from pathlib import Path

import pytest

from crfs._native.listing import Listing
from crfs._native.lowernames import LowerNames


def _read(directory: int, path: bytes = b"") -> LowerNames:
    return LowerNames(0, directory, path, os.fstat(directory).st_dev, 0, b"")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"x" * 5000)
    (tmp_path / "below" / "empty").touch()
    (tmp_path / "below" / "link").symlink_to("nowhere")
    (tmp_path / "below" / ".wh.gone").touch()
    (tmp_path / "below" / ".wh..wh..opq").touch()
    return tmp_path


def test_names_come_with_what_stat_says(filled: Path) -> None:
    directory = os.open(filled, os.O_PATH)
    names = _read(directory, b"below")
    found = dict(names[at] for at in range(len(names)))
    os.close(directory)
    assert sorted(found) == [b"empty", b"file", b"link"]
    for name, info in found.items():
        expected = os.lstat(filled / "below" / os.fsdecode(name))
        assert (info.st_ino, info.st_mode, info.st_size) == (
            expected.st_ino,
            expected.st_mode,
            expected.st_size,
        )
    with pytest.raises(IndexError):
        names[3]


def test_nothing_is_told_of_what_nobody_answers_for(filled: Path) -> None:
    directory = os.open(filled / "below", os.O_RDONLY)
    names, listing = _read(directory), Listing(4096, True)
    os.close(directory)
    assert names.put_files(listing, 0, 2, 1, {}, {}, 0) == 0
    assert listing.taken_bytes() == b""


def test_should_fail_to_read_what_is_no_directory(filled: Path) -> None:
    directory = os.open(filled, os.O_RDONLY)
    for path, error in ((b"below/file", NotADirectoryError), (b"missing", FileNotFoundError)):
        with pytest.raises(error):
            _read(directory, path)
    os.close(directory)
