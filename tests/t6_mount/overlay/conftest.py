"""Overlays need root, FUSE and the kernel's overlayfs; an arena has a file system of its own for each module.

CRFS_OVERLAY_TRIAL=fuse-overlayfs puts another overlay in the place of ours, to see what the tests find in it.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dockerregistry import lacking, need_root
from tests.support.mounting import Crfs
from tests.support.overlaymounts import FuseOverlay, KernelOverlay, Mounter, crfs_overlayfs, fuse_overlayfs
from tests.t6_mount.overlay.arena import Arena, arena_in

# of a small disk
DISK_SIZE = 8 << 20


@pytest.fixture(scope="session", autouse=True)
def _overlayfs() -> None:
    need_root()
    if reason := KernelOverlay().missing():
        lacking(reason)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Where pairs of overlays are compared."""
    with arena_in(tmp_path_factory.mktemp("arena")) as found:
        yield found


@pytest.fixture
def crfs_overlay(crfs: Crfs) -> FuseOverlay:
    """Our overlay; whatever it leaves behind fails the test."""
    mounter = crfs_overlayfs(crfs.environment)
    if os.environ.get("CRFS_OVERLAY_TRIAL") == "fuse-overlayfs":
        mounter = fuse_overlayfs()
    if reason := mounter.missing():
        pytest.skip(reason)
    return mounter


@pytest.fixture(params=["kernel", "crfs"])
def overlay(request: pytest.FixtureRequest) -> Mounter:
    """Ours, and the kernel's, by which the test itself is judged."""
    if request.param == "kernel":
        return KernelOverlay(index=True)
    ours: FuseOverlay = request.getfixturevalue("crfs_overlay")
    return ours


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of `DISK_SIZE` bytes and of few inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if request.param == "tmpfs":
        words = ["-t", "tmpfs", "-o", f"size={DISK_SIZE},nr_inodes=100", "small"]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(DISK_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "112", image], check=True)
        words = ["-o", "loop", str(image)]
    done = subprocess.run(["mount", *words, disk], capture_output=True, text=True, check=False)
    if done.returncode:
        lacking(f"no {request.param} of a size of one's own: {done.stderr}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
