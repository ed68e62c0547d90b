"""The disk cache: verified, decompressed bytes by the SHA-256 of those bytes. Any thread, several processes.

    chunks/ab/abcd...   one decompressed chunk each
    objects/            the same for the kernel (crfs.blobs.objects), for mounts that want it
    layers/abcd...      the uncompressed tar of a layer that can't be read lazily, by its diff_id

Entries appear by rename, whole. A chunk is hashed again when a process first reads it, and a layer after a
crash, so that neither that nor a failing disk can put a wrong byte into a mount.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from crfs._native.inflate import check_sha256
from crfs._native.keeping import keep
from crfs.blobs.cachedir import CacheDirectory, open_cache_directory
from crfs.blobs.eviction import Keeper, Limits
from crfs.blobs.objects import VERIFIED_NS, Objects
from crfs.errors import CrfsError, DigestMismatch
from crfs.formats.digest import check_hash, parse_digest

log = logging.getLogger(__name__)
_PIECE = 1 << 20
# how exact the time of a chunk's last use is
_USE_SECONDS = 60.0


class Store:
    """A cache directory. Use open_store()."""

    def __init__(self, directory: CacheDirectory, keeper: Keeper | None = None) -> None:
        self.directory = directory
        self._root = directory.root
        self._keeper = keeper
        # chunks that this process has verified, and when it last said that it uses them
        self._trusted: dict[bytes, float] = {}
        self._full = False
        # where chunks get another name as soon as they are verified
        self.objects: Objects | None = None

    def takes(self, size: int) -> bool:
        """Whether that many bytes can be kept without driving out most of what else is here."""
        return self._keeper is None or size <= self._keeper.size // 2

    def close(self) -> None:
        """This process is done with the cache, in good order."""
        if self._keeper is not None:
            self._keeper.close()
        self.directory.close()

    def _chunk_path(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._root}/chunks/{name[:2]}/{name}"

    def read_chunk(self, digest: bytes, size: int, start: int, end: int) -> bytes | None:
        """Bytes [start, end) of a chunk that is `size` bytes long, or None if it is not here (any more)."""
        path = self._chunk_path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._trusted.pop(digest, None)
            return None
        try:
            used = self._trusted.get(digest)
            if used is not None:
                self._use(digest, fd, used)
                data = os.pread(fd, end - start, start)
                if len(data) == end - start:
                    return data
            data = _read_verified(fd, digest, size)
            self._share(digest, path)
            self._use(digest, fd, -_USE_SECONDS)
        except DigestMismatch:
            log.warning("%s does not match its name; it is dropped and fetched again", path)
            self._trusted.pop(digest, None)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        except OSError as error:
            log.warning("%s: %s", path, error.strerror)
            return None
        finally:
            os.close(fd)
        return data[start:end]

    def _share(self, digest: bytes, path: str) -> None:
        if self.objects is not None:
            self.objects.share(digest, path)

    def _use(self, digest: bytes, fd: int, before: float) -> None:
        """Have it known that a chunk is in use, so that others are evicted before it."""
        now = time.monotonic()
        if now - before >= _USE_SECONDS:
            self._trusted[digest] = now
            with contextlib.suppress(OSError):
                # the time of change is what says that it is still as it was verified
                os.utime(fd, ns=(time.time_ns(), os.fstat(fd).st_mtime_ns))

    def verified_chunk(self, digest: bytes, size: int) -> str | None:
        """The file of a chunk that this process has verified, or None if it is not here."""
        return None if self.read_chunk(digest, size, 0, 0) is None else self._chunk_path(digest)

    def has_chunk(self, digest: bytes) -> bool:
        """Whether a chunk seems to be here; read_chunk() may still find it damaged."""
        return digest in self._trusted or os.path.exists(self._chunk_path(digest))

    def store_chunk(self, digest: bytes, data: bytes) -> None:
        """Keep a verified chunk. A disk that takes no more is said once and otherwise does not matter."""
        path = self._chunk_path(digest)
        if os.path.exists(path) or (self._keeper is not None and not self._keeper.may_write()):
            return
        try:
            self._keep(digest, data, path)
        except OSError as error:
            if not self._full:
                self._full = True
                log.warning("the cache %s takes no more: %s", self._root, error.strerror)
            return
        self._trusted[digest] = time.monotonic()
        if self._keeper is not None:
            self._keeper.wrote(len(data))

    def _keep(self, digest: bytes, data: bytes, path: str) -> None:
        other = None if self.objects is None else os.fsencode(self.objects.chunk_path(digest))
        keep(os.fsencode(path), os.fsencode(self.directory.staged_path()), data, other, VERIFIED_NS)

    def publish_object(self, staged: IO[bytes], name: str) -> None:
        """Keep a staged file as the content of that name, which whoever wrote it has verified. OSError."""
        if self.objects is None or (self._keeper is not None and not self._keeper.may_write()):
            return
        staged.flush()
        os.utime(staged.fileno(), ns=(time.time_ns(), VERIFIED_NS))
        self.directory.publish(staged, self.objects.path(name))
        if self._keeper is not None:
            self._keeper.wrote(os.stat(self.objects.path(name)).st_blocks * 512)

    def find_layer(self, diff_id: str) -> Path | None:
        """The uncompressed tar with this diff_id, if it is here and still what it was."""
        name = layer_name(diff_id)
        path = self._root / name
        self.directory.pin(name)
        with contextlib.suppress(OSError):
            os.utime(path)
        if self.directory.is_believed(name) and path.is_file():
            return path
        hasher = parse_digest(diff_id).hasher()
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    hasher.update(piece)
            check_hash(hasher, diff_id, str(path))
        except FileNotFoundError:
            return None
        except (OSError, DigestMismatch) as error:
            log.warning("%s; it is dropped and fetched again", error)
            self.drop_layer(path)
            return None
        self.directory.believe(name)
        return path

    def drop_layer(self, path: Path) -> None:
        """Remove a layer that turned out to be of no use."""
        self.directory.disbelieve(f"layers/{path.name}")
        with contextlib.suppress(OSError):
            path.unlink()

    @contextlib.contextmanager
    def staged_layer(self) -> Iterator[IO[bytes]]:
        """A file to write a layer's tar to; publish_layer() keeps it, else it is gone afterwards.

        CrfsError where the disk takes no more.
        """
        try:
            with self.directory.staged() as staged:
                yield staged
        except OSError as error:
            raise CrfsError(f"the cache {self._root} can't take a whole layer: {error.strerror}") from error

    def publish_layer(self, staged: IO[bytes], diff_id: str) -> Path:
        """Keep a staged layer, durably, under its verified diff_id."""
        name = layer_name(diff_id)
        path = self._root / name
        staged.flush()
        os.fsync(staged.fileno())
        self.directory.pin(name)
        os.rename(staged.name, path)
        self.directory.believe(name)
        if self._keeper is not None:
            self._keeper.wrote(path.stat().st_size)
        return path


def layer_name(diff_id: str) -> str:
    """Where in the cache the tar of that diff_id lies."""
    return f"layers/{diff_id.replace(':', '-')}"


def open_store(root: Path, limits: Callable[[Path], Limits] | None = None) -> Store:
    """The cache at `root`, made where it is missing; CrfsError with the path where it can't be."""
    directory = open_cache_directory(root)
    return Store(directory, Keeper(directory, limits(root)) if limits else None)


def _read_verified(fd: int, digest: bytes, size: int) -> bytes:
    """A whole chunk; DigestMismatch if it is not the one of that digest and size."""
    # looked at first, so that no more memory is asked for than there are bytes
    if os.fstat(fd).st_size != size:
        raise DigestMismatch("a cached chunk has another size")
    data = os.pread(fd, size, 0)
    check_sha256(data, digest)
    return data
