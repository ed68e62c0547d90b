"""Directories that no overlay can be made of: one line says why, and nothing is left of the attempt."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.overlaymounts import FuseOverlay, Layers, MountFailed


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """Good ones."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("lower")
    return Layers((tmp_path / "lower",), tmp_path / "upper", tmp_path / "work")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "elsewhere", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def refused(overlay: FuseOverlay, layers: Layers, reason: str) -> None:
    """It is not mounted, and the only line that is printed gives the reason."""
    at = Path(overlay.environment["CRFS_TEST_PLACE"]).parent / "merged"
    with pytest.raises(MountFailed, match=rf"status [12]: crfs-overlayfs: [^\n]*{reason}[^\n]*\n$"):
        overlay.mount(layers, at)
    assert not at.is_mount()


def test_should_refuse_work_on_another_file_system(
    crfs_overlay: FuseOverlay, layers: Layers, elsewhere: Path
) -> None:
    refused(crfs_overlay, Layers(layers.lowers, layers.upper, elsewhere), "one file system")
    assert list(elsewhere.iterdir()) == []


def test_should_refuse_upper_in_lower(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    inside = layers.lowers[0] / "upper"
    inside.mkdir()
    refused(crfs_overlay, Layers(layers.lowers, inside, layers.work), "lies in the lower")
    assert sorted(os.listdir(layers.lowers[0])) == ["file", "upper"]


def test_should_refuse_work_in_lower(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    inside = layers.lowers[0] / "work"
    inside.mkdir()
    refused(crfs_overlay, Layers(layers.lowers, layers.upper, inside), "work directory lies in the lower")
    assert list(inside.iterdir()) == []


def test_should_refuse_upper_that_is_lower(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    refused(crfs_overlay, Layers(layers.lowers, layers.lowers[0], layers.work), "lower")
    assert os.listdir(layers.lowers[0]) == ["file"]


def test_should_refuse_work_in_upper(crfs_overlay: FuseOverlay, layers: Layers, tmp_path: Path) -> None:
    inside = tmp_path / "upper/work"
    inside.mkdir()
    refused(crfs_overlay, Layers(layers.lowers, layers.upper, inside), "apart")


@pytest.mark.parametrize("which", ["lower", "upper", "work"])
def test_should_refuse_what_does_not_exist(
    crfs_overlay: FuseOverlay, layers: Layers, tmp_path: Path, which: str
) -> None:
    (tmp_path / which).rename(tmp_path / "moved")
    refused(crfs_overlay, layers, f"{which}: no such directory")


def test_should_refuse_one_missing_lower_of_many(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    lowers = (*layers.lowers, layers.lowers[0].with_name("missing"))
    refused(crfs_overlay, Layers(lowers, layers.upper, layers.work), "missing: no such directory")


def test_should_refuse_a_file(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    file = layers.lowers[0] / "file"
    refused(crfs_overlay, Layers((file,), layers.upper, layers.work), "file: n")


def test_should_refuse_upper_without_work(crfs_overlay: FuseOverlay, layers: Layers) -> None:
    refused(crfs_overlay, Layers(layers.lowers, layers.upper), "workdir")


def test_should_refuse_upper_on_a_read_only_disk(
    crfs_overlay: FuseOverlay, layers: Layers, elsewhere: Path
) -> None:
    for name in ("upper", "work"):
        (elsewhere / name).mkdir()
    subprocess.run(["mount", "-o", "remount,ro", elsewhere], check=True)
    refused(crfs_overlay, Layers(layers.lowers, elsewhere / "upper", elsewhere / "work"), "written")


def test_should_refuse_upper_on_a_read_only_mount(
    crfs_overlay: FuseOverlay, layers: Layers, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    subprocess.run(["mount", "--bind", upper, upper], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", upper], check=True)
        refused(crfs_overlay, layers, "written")
    finally:
        subprocess.run(["umount", upper], check=True)
