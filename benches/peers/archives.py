"""Mounters of one archive: ratarmount of a tar, squashfuse of a squashfs. The archive is made before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import images, mounts
from benches.peers.peer import needed, package_version, version_of
from benches.place import Place, Source


@dataclass(frozen=True, slots=True)
class ArchiveMounter:
    """A FUSE program that mounts an archive of the whole tree; `kind` is what its mounts are."""

    name: str
    ask_version: Callable[[], str]
    archive: Callable[[str], Path]
    kind: str
    command: Callable[[Path, Path, Path], list[str]]

    def version(self) -> str:
        return self.ask_version()

    def prepare(self, image: str, source: Source) -> None:
        self.archive(image)

    @contextmanager
    def store(self, place: Place) -> Iterator[ArchiveStore]:
        yield ArchiveStore(self, place.directory)


@dataclass(frozen=True, slots=True)
class ArchiveStore:
    """A directory for what the program keeps from one mount for the next."""

    peer: ArchiveMounter
    directory: Path

    def mounted(self, image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
        argv = self.peer.command(self.peer.archive(image), at, self.directory / "index")
        return mounts.mounted(at, self.peer.kind, argv, ["umount", str(at)])


def _ratarmount(archive: Path, at: Path, index: Path) -> list[str]:
    flags = ["--index-file", f"{index}-{archive.parent.parent.name}", "-o", "allow_other,dev,suid"]
    return [needed("ratarmount"), *flags, str(archive), str(at)]


def _squashfuse(archive: Path, at: Path, _index: Path) -> list[str]:
    return [needed("squashfuse"), "-o", "allow_other,dev,suid", str(archive), str(at)]


def _squashfuse_version() -> str:
    needed("mksquashfs")
    return package_version("squashfuse", "squashfuse")


RATARMOUNT = ArchiveMounter(
    "ratarmount", lambda: version_of("ratarmount"), images.archive, "fuse", _ratarmount
)
SQUASHFUSE = ArchiveMounter(
    "squashfuse", _squashfuse_version, images.squashfs, "fuse.squashfuse", _squashfuse
)
