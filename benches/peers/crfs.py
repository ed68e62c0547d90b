"""crfs: the image is mounted from the registry, and bytes are fetched as they are read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import images, mounts
from benches.commands import run
from benches.peers.peer import version_of
from benches.place import Place, Source
from benches.processes import await_idle

# any image that is not asked about, and when its mount's warm process begins to load what others will need
_OTHER = "quirks"
_PRELOADS_AFTER = 2.7


@dataclass(frozen=True, slots=True)
class Crfs:
    """Mounts one of the formats that an image is in the registry in.

    Each mount starts from nothing; or, if `warm`, from the process that a mount of another image has left.
    """

    name: str = "crfs"
    tag: str = images.ESTARGZ
    options: tuple[str, ...] = ()
    warm: bool = False
    # mounts of one store share processes, as those of one user do; the first finds none
    together: bool = False
    # of the kernel's, with an upper directory on a tmpfs
    engine: str | None = None

    def version(self) -> str:
        return version_of(mounts.crfs_program())

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, self.tag)
        if self.warm:
            source.have(_OTHER, self.tag)

    @contextmanager
    def store(self, place: Place) -> Iterator[CrfsStore]:
        store = CrfsStore(self, place)
        if not self.warm:
            yield store
            return
        with CrfsStore(self, place.beside("other")).mounted(_OTHER, place.directory / "other/tree"):
            time.sleep(_PRELOADS_AFTER)
            await_idle(place.processes())
            yield store


@dataclass(frozen=True, slots=True)
class CrfsStore:
    """A disk cache, which mounts share."""

    peer: Crfs
    place: Place

    def mounted(self, image: str, at: Path) -> AbstractContextManager[mounts.Mount]:
        ref = self.place.ref(image, self.peer.tag)
        # what is counted is what readers want, also where many of them take longer than it takes to be quiet
        log = ("--log-file", str(self.place.directory / "crfs.log"), "--no-background-fetch")
        cache = self.place.directory / "cache"
        if self.peer.engine is None:
            return mounts.crfs(ref, at, cache, *log, *self.peer.options, env=self._environment())
        return self._writable(ref, at, cache, *log)

    @contextmanager
    def _writable(self, ref: str, at: Path, cache: Path, *options: str) -> Iterator[mounts.Mount]:
        directory = at.with_name(at.name + "-changes")
        directory.mkdir()
        run("mount", "-t", "tmpfs", "-o", "mode=755", "bench", directory)
        try:
            upper, work = directory / "upper", directory / "work"
            upper.mkdir()
            work.mkdir()
            words = ["--engine", str(self.peer.engine), "--upper", str(upper), "--work", str(work), *options]
            environment = self._environment()
            with mounts.crfs(
                ref, at, cache, *words, *self.peer.options, env=environment, kind="overlay"
            ) as mount:
                yield mount
        finally:
            run("umount", directory)
            directory.rmdir()

    def _environment(self) -> dict[str, str]:
        """A warm process serves none but those with the same PYTHON variables, so that it's this run's."""
        if self.peer.warm:
            return {"PYTHONCRFSBENCH": str(os.getpid())}
        if self.peer.together:
            return {"PYTHONCRFSBENCH": str(self.place.directory)}
        return {"CRFS_NO_SERVER": "1"}


CRFS = Crfs()
CRFS_WARM = Crfs("crfs + warm process", warm=True)
CRFS_TOGETHER = Crfs(together=True)
CRFS_FUSE = Crfs("crfs-fuse", options=("--engine", "fuse"))
CRFS_OVERLAY = Crfs("crfs-overlay", engine="overlay")
CRFS_PLAIN = Crfs("crfs plain", "plain")
# nothing in a stargz layer is verified by what the manifest says: without the option it's fetched whole
CRFS_STARGZ = Crfs("crfs stargz", images.crfs_tag("stargz"), options=("--allow-unverified",))
CRFS_ZSTD = Crfs("crfs zstd:chunked", images.crfs_tag("zstd:chunked"))
