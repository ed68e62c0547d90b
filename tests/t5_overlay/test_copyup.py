"""What a copy-up keeps of a file's bytes: all of them, and its holes."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.overlay.lower import DirectoryLower, OpenLower, open_directory
from tests.support.overlaytree import opened

BLOCK = 4096


class _Unsparse:
    """A lower file whose holes nobody knows, as in an image."""

    def __init__(self, opened: OpenLower) -> None:
        self.read, self.close = opened.read, opened.close

    def data_at(self, off: int, size: int) -> tuple[int, int]:
        return off, size


class _AsAnImage(DirectoryLower):
    def open(self, handle: bytes) -> OpenLower:
        return _Unsparse(super().open(handle))


def sparse(path: Path) -> None:
    """Data in three places of 9 MiB, none of them at a boundary of anything."""
    with path.open("wb") as file:
        for at in (BLOCK * 3 + 5, (3 << 20) + 17, (5 << 20) + BLOCK * 2 - 1):
            file.seek(at)
            file.write(b"data")
        file.truncate((9 << 20) + 3)


def as_an_image(path: Path) -> DirectoryLower:
    return _AsAnImage(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def as_a_directory(path: Path) -> DirectoryLower:
    return open_directory(os.fsencode(path))


def test_a_new_upper_directory_is_as_the_root_below(tmp_path: Path) -> None:
    """One that is not new is left as it is."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    os.setxattr(lower, "user.kept", b"value")
    lower.chmod(0o1751)
    os.utime(lower, ns=(1, 2))
    upper.mkdir(mode=0o700)
    with opened([lower], tmp_path):
        assert stat.S_IMODE(upper.stat().st_mode) == 0o700
    with opened([lower], tmp_path, fresh=True) as tree:
        assert tree.overlay.files.attributes(tree.overlay.node(1)).mode == stat.S_IFDIR | 0o1751
    info = upper.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o1751, 2)
    assert os.getxattr(upper, "user.kept") == b"value"


@pytest.mark.parametrize("kind", [as_a_directory, as_an_image])
def test_holes_stay_holes(tmp_path: Path, kind: Callable[[Path], DirectoryLower]) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    sparse(lower / "file")
    with opened([kind(lower)], tmp_path) as tree:
        tree.chmod(b"file", 0o600)
    copy = tmp_path / "upper/file"
    assert copy.read_bytes() == (lower / "file").read_bytes()
    assert copy.stat().st_blocks * 512 <= 5 * BLOCK


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"\0", b"x", b"0"]), st.integers(1, 3 * BLOCK)), max_size=6))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[bytes, int]]) -> None:
    base = tmp_path_factory.mktemp("any")
    (base / "lower").mkdir()
    content = b"".join(byte * count for byte, count in runs)
    (base / "lower/file").write_bytes(content)
    with opened([as_an_image(base / "lower")], base) as tree:
        tree.chmod(b"file", 0o600)
        assert tree.read(b"file") == content
    assert (base / "upper/file").read_bytes() == content


def test_only_as_much_is_copied_as_stays(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower/file").write_bytes(b"x" * 100_000)
    with opened([tmp_path / "lower"], tmp_path) as tree, tree.open(b"file", os.O_WRONLY | os.O_TRUNC):
        assert tree.stat(b"file").size == 0


def test_two_that_share_a_work_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after `umount -l`: what the one has staged is not removed by the other, nor given another's name."""
    (tmp_path / "lower").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "lower" / name).write_text(name)
    staged = tmp_path / "work" / "work" / "left-over"
    with opened([tmp_path / "lower"], tmp_path) as first:
        staged.write_text("half of something")
        first.unlink(b"a")
        with opened([tmp_path / "lower"], tmp_path) as second:
            assert staged.exists()
            first.chmod(b"b", 0o600)
            second.chmod(b"c", 0o600)
            second.unlink(b"b")
        assert "another mount" in caplog.text
        assert staged.exists()
        caplog.clear()
    assert not staged.exists()
    with opened([tmp_path / "lower"], tmp_path) as tree:
        assert tree.listed(b"").keys() == {b"c"}
