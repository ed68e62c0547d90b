"""`crfs mount` of several lower trees, images and directories in any order, with an upper directory or without."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.layers import Dir, Entry, File, Hardlink
from tests.support.mounting import Crfs
from tests.t6_mount.images import estargz_layer, gzip_layer, write_layout

IMAGE: list[Entry] = [
    Dir("./"),
    Dir("dir"),
    File("dir/file", b"image"),
    File("dir/image", b"image"),
    File("only-image", b"image"),
    Hardlink("hard", "only-image"),
]


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A source that is an image."""
    return write_layout(tmp_path / "layout", estargz_layer(IMAGE))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A lower directory with a colon in its name, and something to hide of the image."""
    root = tmp_path / "with:colon"
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_text("directory")
    (root / "dir/directory").write_text("directory")
    (root / "dir/.wh.image").touch()
    return root


@pytest.fixture(params=["fuse", "overlay"])
def upper(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str | Path, ...]:
    """Options for an upper directory, and an engine."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return "--upper", tmp_path / "upper", "--work", tmp_path / "work", "--engine", request.param


def listed(root: Path) -> dict[str, str]:
    """Every file's content."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_text() for path in files}


def test_a_directory_over_an_image(
    crfs: Crfs, image: str, directory: Path, upper: tuple[str | Path, ...]
) -> None:
    root = crfs.mount(image, "--lower", directory, *upper)
    wanted = {"dir/file": "directory", "dir/directory": "directory", "only-image": "image", "hard": "image"}
    assert listed(root) == wanted
    inodes = {path: path.stat().st_ino for path in root.rglob("*")}
    assert len(set(inodes.values())) == len(inodes) - 1
    (root / "dir/file").write_text("changed")
    wanted |= {"dir/file": "changed"}
    # overlayfs gives the name that is written to a file of its own, and after that another number
    keeps = "fuse" in upper
    if keeps:
        (root / "hard").write_text("changed")
        wanted |= {"hard": "changed", "only-image": "changed"}
    for _ in range(2):
        assert listed(root) == wanted
        assert not keeps or {path: path.stat().st_ino for path in root.rglob("*")} == inodes
        crfs.umount(root)
        crfs.mount(image, "--lower", directory, *upper, at=root)
    assert (directory / "dir/file").read_text() == "directory"


def test_an_image_over_a_directory(
    crfs: Crfs, directory: Path, tmp_path: Path, upper: tuple[str | Path, ...]
) -> None:
    (tmp_path / "blob").write_bytes(gzip_layer(IMAGE).data)
    root = crfs.mount(directory, "--lower", tmp_path / "blob", *upper)
    assert (root / "dir/file").read_text() == "image"
    assert (root / "dir/directory").read_text() == "directory"
    os.rename(root / "dir", root / "moved")
    crfs.umount(root)
    crfs.mount(directory, "--lower", tmp_path / "blob", *upper, at=root)
    assert sorted(os.listdir(root / "moved")) == ["directory", "file", "image"]


def test_as_mount_options(crfs: Crfs, image: str, directory: Path, tmp_path: Path) -> None:
    """Topmost first, with colons escaped as in fuse-overlayfs's; without an upper directory it is read-only."""
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    (top / "dir/file").write_text("top")
    escaped = str(directory).replace(":", r"\:")
    root = crfs.mount(image, "-o", f"lowerdir={top}:{escaped}")
    assert listed(root)["dir/file"] == "top"
    assert listed(root)["dir/directory"] == "directory"
    assert "dir/image" not in listed(root)
    with pytest.raises(OSError) as refused:
        (root / "new").touch()
    assert refused.value.errno == errno.EROFS


def test_a_directory_alone(crfs: Crfs, directory: Path, upper: tuple[str | Path, ...]) -> None:
    root = crfs.mount(directory, *upper)
    (root / "dir/file").write_text("changed")
    assert (directory / "dir/file").read_text() == "directory"


@pytest.mark.parametrize(
    "options", [("--upper", "upper"), ("--lower", "missing"), ("-o", "lowerdir=missing")]
)
def test_should_refuse(crfs: Crfs, image: str, tmp_path: Path, options: tuple[str, str]) -> None:
    done = crfs.run("mount", image, crfs.new_directory(), *options, cwd=tmp_path)
    assert done.status in (1, 2)
    assert len(done.err.splitlines()) == 1
    assert "missing" in done.err or "go together" in done.err


def test_should_refuse_an_upper_directory_in_a_lower_one(
    crfs: Crfs, image: str, tmp_path: Path, upper: tuple[str | Path, ...]
) -> None:
    done = crfs.run("mount", image, crfs.new_directory(), "--lower", tmp_path, *upper)
    assert done.status == 1
    assert "lies in the lower" in done.err
