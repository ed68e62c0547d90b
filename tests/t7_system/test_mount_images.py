"""Whole images, mounted by the crfs command from a real registry, are what umoci unpacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benches.images import FOREIGN_TAGS, TAGS, repository
from benches.link import link
from benches.mountinfo import mount_type
from benches.mounts import crfs, crfs_program, daemons
from benches.recipes import chunks
from benches.recipes.quirks import UNTIMED
from benches.registry import Registry
from tests.support.compare import compare_trees
from tests.support.dockerregistry import need_root
from tests.support.realimages import RealImage, RealImages


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_root()
    assert os.access(crfs_program(), os.X_OK), f"{crfs_program()} is not there: install crfs first"


def differences(image: RealImage, tmp_path: Path, untimed: frozenset[bytes] = frozenset()) -> list[str]:
    """Mount the image at a new directory and compare all of it with the oracle."""
    at = tmp_path / "mnt"
    with crfs(image.ref, at, tmp_path / "cache"):
        return compare_trees(at, image.oracle, mtime_seconds=image.estargz, untimed=untimed)


@pytest.mark.parametrize("tag", [*TAGS, *FOREIGN_TAGS])
def test_quirks(tag: str, real_images: RealImages, tmp_path: Path) -> None:
    assert differences(real_images.get("quirks", tag), tmp_path, UNTIMED) == []


def test_names_that_are_not_utf8(real_images: RealImages, tmp_path: Path) -> None:
    assert differences(real_images.get("rawnames", "plain"), tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tag", TAGS)
def test_minbase(tag: str, real_images: RealImages, tmp_path: Path) -> None:
    assert differences(real_images.get("minbase", tag), tmp_path) == []


def test_same_tree_from_a_warm_cache(real_images: RealImages, tmp_path: Path) -> None:
    image = real_images.get("quirks", "esgz")
    assert differences(image, tmp_path, UNTIMED) == []
    assert differences(image, tmp_path, UNTIMED) == []


def test_umount_leaves_nothing(real_images: RealImages, tmp_path: Path) -> None:
    at = tmp_path / "mnt"
    with crfs(real_images.get("quirks", "esgz").ref, at, tmp_path / "cache"):
        assert mount_type(at) is not None
        assert daemons(at)
    assert mount_type(at) is None
    assert not daemons(at)
    assert list(at.iterdir()) == []


def test_read_of_a_byte_fetches_its_chunk_only(
    docker_registry: Registry, real_images: RealImages, tmp_path: Path
) -> None:
    real_images.get("chunks", "esgz-32m")
    at, offset = tmp_path / "mnt", 5 * chunks.CHUNK + 1000
    with link(docker_registry.port) as counted:
        ref = f"{counted.host}/{repository('chunks')}:esgz-32m"
        with crfs(ref, at, tmp_path / "cache"):
            counted.take()
            with open(at / chunks.NAME, "rb", buffering=0) as file:
                assert os.pread(file.fileno(), 1, offset) == chunks.chunk(5)[1000:1001]
            counts = counted.take()
    assert chunks.RANDOM < counts.bytes_down < chunks.RANDOM * 1.1, counts
