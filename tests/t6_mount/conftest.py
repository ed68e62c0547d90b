"""A place for the commands of each test, from which nothing may be left; a registry; readers to kill."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.mounting import Crfs, Readers, crfs_in, need_fuse, readers


@pytest.fixture(scope="session", autouse=True)
def _fuse() -> None:
    need_fuse()


@pytest.fixture(autouse=True)
def crfs(tmp_path: Path) -> Iterator[Crfs]:
    """The commands, for one test."""
    with crfs_in(tmp_path / "crfs") as commands:
        yield commands


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry in memory. Whatever maps or runs files of a mount must not do so in this process."""
    with Registry() as running:
        yield running


@pytest.fixture(name="readers")
def _readers(crfs: Crfs) -> Iterator[Readers]:
    """Programs that read from a mount, gone before it is taken down."""
    with readers() as running:
        yield running
