"""crfs: the image is mounted from the registry, and bytes are fetched as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import mounts
from benches.peers.peer import version_of
from benches.place import Place, Source


@dataclass(frozen=True, slots=True)
class Crfs:
    """Mounts one of the formats that an image is in the registry in."""

    name: str = "crfs"
    tag: str = "esgz"
    options: tuple[str, ...] = ()

    def version(self) -> str:
        return version_of(mounts.crfs_program())

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, self.tag)

    @contextmanager
    def store(self, place: Place) -> Iterator[CrfsStore]:
        yield CrfsStore(self, place)


@dataclass(frozen=True, slots=True)
class CrfsStore:
    """A disk cache, which mounts share."""

    peer: Crfs
    place: Place

    def mounted(self, image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
        ref = self.place.ref(image, self.peer.tag)
        log = ("--log-file", str(self.place.directory / "crfs.log"))
        return mounts.crfs(ref, at, self.place.directory / "cache", *log, *self.peer.options)


CRFS = Crfs()
CRFS_PLAIN = Crfs("crfs plain", "plain")
