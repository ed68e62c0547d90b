"""Contents of whole files in the disk cache, under names that the kernel itself can follow (`_native.contents`).

    objects/ab/abcd...          a chunk, which may be a whole file: another name of chunks/ab/abcd...
    objects/ab/abcd....parts    a file that was put together

Nobody looks at what the kernel reads here, so all of it was verified since the machine was started: what an earlier
boot has left may not have reached the disk, and goes. What was verified bears a time of change that no write leaves
behind; each mount begins by dropping what has another one. Any thread, any process.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import time
from pathlib import Path

from crfs._native.status import find_changed
from crfs.blobs.cachedir import CacheDirectory

log = logging.getLogger(__name__)
PARTS_SUFFIX = ".parts"
# the time of change of what was verified: one second after the epoch
VERIFIED_NS = 10**9
_NAME = "objects"


class Objects:
    """Use open_objects()."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> str:
        """Where a content of that name (`ab/abcd...`) is, or would be."""
        return f"{self.root}/{name}"

    def chunk_path(self, digest: bytes) -> str:
        """The other name of a chunk."""
        name = digest.hex()
        return self.path(f"{name[:2]}/{name}")

    def share(self, digest: bytes, chunk: str) -> None:
        """Give a chunk, just verified, its other name."""
        path = self.chunk_path(digest)
        with contextlib.suppress(OSError):
            os.utime(chunk, ns=(time.time_ns(), VERIFIED_NS))
            try:
                os.link(chunk, path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                os.link(chunk, path)

    def drop_changed(self) -> None:
        """Remove what was written to since it was verified."""
        for name in os.listdir(self.root):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                directory = os.open(self.root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._drop_changed_in(directory, name)
                finally:
                    os.close(directory)

    def _drop_changed_in(self, directory: int, name: str) -> None:
        for changed in find_changed(directory, VERIFIED_NS):
            log.warning("%s was changed by somebody; it is dropped", self.root / name / os.fsdecode(changed))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(changed, dir_fd=directory)


def open_objects(directory: CacheDirectory) -> Objects | None:
    """The contents of this boot; None where it can't be told, or the cache takes none."""
    if not directory.boot:
        return None
    root = directory.root / _NAME
    try:
        lock = os.open(directory.root / "objects.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    with contextlib.suppress(OSError), os.fdopen(lock, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.read() != directory.boot:
            root.rename(directory.root / "tmp" / f"{_NAME}-{secrets.token_hex(8)}")
            root.mkdir(mode=0o700)
            file.seek(0)
            file.truncate()
            file.write(directory.boot)
        return Objects(root)
    return None


def drop_old(directory: CacheDirectory) -> None:
    """Remove what earlier boots have left. Takes as long as there is of it."""
    for path in (directory.root / "tmp").glob(f"{_NAME}-*"):
        shutil.rmtree(path, ignore_errors=True)
