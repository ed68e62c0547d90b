"""What file systems make of an image that was pulled and unpacked before: they begin where pulling ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import images, mounts
from benches.cache import cache_dir
from benches.commands import run
from benches.peers.peer import NotHere, version_of
from benches.place import Place, Source

Build = Callable[[str], object]
Open = Callable[[str, Path], AbstractContextManager[mounts.Mount]]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A tree on this machine's disk, or a mount of one."""

    name: str
    ask_version: Callable[[], str]
    build: Build
    open: Open

    def version(self) -> str:
        return self.ask_version()

    def prepare(self, image: str, source: Source) -> None:
        self.build(image)

    @contextmanager
    def store(self, place: Place) -> Iterator[Unpacked]:
        yield self

    def mounted(self, image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
        return self.open(image, at)


def _kernel() -> str:
    return f"Linux {run('uname', '-r').strip()}"


def _disk() -> str:
    """Raises NotHere where the benches' cache is on another file system."""
    kind = run("findmnt", "-n", "-o", "FSTYPE", "-T", cache_dir()).strip()
    if kind != "ext4":
        raise NotHere(f"{cache_dir()} is on {kind}")
    return _kernel()


def _directory(image: str, _at: Path) -> AbstractContextManager[mounts.Mount]:
    return mounts.directory(images.oracle(image))


def _overlay(image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
    return mounts.overlay(images.lower_dirs(image), at)


def _fuse_overlayfs(image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
    return mounts.fuse_overlayfs(images.lower_dirs(image), at)


EXT4 = Unpacked("ext4", _disk, images.oracle, _directory)
OVERLAYFS = Unpacked("overlayfs", _kernel, images.lower_dirs, _overlay)
FUSE_OVERLAYFS = Unpacked(
    "fuse-overlayfs", lambda: version_of("fuse-overlayfs"), images.lower_dirs, _fuse_overlayfs
)
