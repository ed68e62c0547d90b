"""Overlays need root, FUSE and the kernel's overlayfs; an arena has a file system of its own for each module."""

from collections.abc import Iterator

import pytest

from tests.support.dockerregistry import lacking, need_root
from tests.support.mounting import Crfs
from tests.support.overlaymounts import FuseOverlay, KernelOverlay, crfs_overlayfs
from tests.t6_mount.overlay.arena import Arena, arena_in


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
    if reason := mounter.missing():
        pytest.skip(reason)
    return mounter
