"""Blobs that are local files."""

import asyncio
import os
from pathlib import Path

import pytest

from crfs.blobs.localfile import FileBlob
from crfs.errors import NotFoundError, TransportError
from tests.support.fetching import collect

DATA = os.urandom(3 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "layer"
    file.write_bytes(DATA)
    return file


def test_whole_and_parts(path: Path) -> None:
    async def work() -> None:
        blob = FileBlob(str(path))
        assert await collect(blob.iter_body()) == DATA
        assert await blob.fetch_tail(47) == (DATA[-47:], len(DATA))
        assert await blob.fetch_tail(len(DATA) + 1) == (DATA, len(DATA))
        assert await blob.fetch_range(9, 99) == DATA[9:99]
        assert await blob.fetch_range(9, 2_000_000) == DATA[9:2_000_000]
        assert await blob.fetch_range(9, 9) == b""
        assert blob.name == str(path)
        blob.close()
        blob.close()

    asyncio.run(work())


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    blob = FileBlob(str(tmp_path / "x"))
    assert asyncio.run(blob.fetch_tail(9)) == (b"", 0)
    assert asyncio.run(collect(blob.iter_body())) == b""


def test_unlinked_file_is_still_read(path: Path) -> None:
    blob = FileBlob(str(path))
    asyncio.run(blob.fetch_range(0, 1))
    path.unlink()
    assert asyncio.run(blob.fetch_range(0, 100)) == DATA[:100]
    blob.close()


def test_relative_path_outlives_a_change_of_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    blob = FileBlob("layer")
    monkeypatch.chdir("/")
    assert asyncio.run(blob.fetch_range(0, 1)) == DATA[:1]


def test_many_readers(path: Path) -> None:
    async def work() -> None:
        blob = FileBlob(str(path))
        found = await asyncio.gather(
            *(blob.fetch_range(at, at + 99_999) for at in range(0, 3_000_000, 99_999))
        )
        assert b"".join(found) == DATA[: len(b"".join(found))]
        blob.close()

    asyncio.run(work())


def test_should_fail_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="/none: no such file"):
        asyncio.run(FileBlob(str(tmp_path / "none")).fetch_tail(9))


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_should_fail_not_a_file(tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(tmp_path / "x")
    else:
        (tmp_path / "x").mkdir()
    with pytest.raises(TransportError, match="/x: not a regular file"):
        asyncio.run(FileBlob(str(tmp_path / "x")).fetch_tail(9))


def test_should_fail_other_size_than_declared(path: Path) -> None:
    with pytest.raises(TransportError, match="has 3145728 bytes, not 3"):
        asyncio.run(FileBlob(str(path), size=3).fetch_range(0, 1))


def test_should_fail_beyond_the_end(path: Path) -> None:
    with pytest.raises(TransportError, match="up to 3145729 of 3145728"):
        asyncio.run(FileBlob(str(path)).fetch_range(3145720, 3145729))


def test_should_fail_truncated_while_open(path: Path) -> None:
    blob = FileBlob(str(path))
    asyncio.run(blob.fetch_range(0, 1))
    os.truncate(path, 100)
    with pytest.raises(TransportError, match="became shorter"):
        asyncio.run(blob.fetch_range(50, 150))


def test_should_fail_no_range(path: Path) -> None:
    with pytest.raises(ValueError, match="not a range"):
        asyncio.run(FileBlob(str(path)).fetch_range(2, 1))
