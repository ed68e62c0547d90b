"""The directory of the disk cache: files that appear whole, who uses it now, and what is believed of it.

    sessions/TOKEN    one per process that uses the cache, locked while it lives; names what it has pinned
    believed/NAME     an entry that was verified, and in which boot of the machine
    tmp/TOKEN-N       what is being written

A session that nobody holds any more has ended by a crash: its half-written files are swept away, and nothing
is believed from then on until it has been verified again. The same after each boot. Any thread, any process.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crfs.errors import CrfsError

_PARTS = (
    *("chunks", "objects", "layers", "trees", "images"),
    *("documents", "refs", "traces", "sessions", "believed", "tmp"),
)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class CacheDirectory:
    """Use open_cache_directory(); close() says that this process ends in good order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._token = secrets.token_hex(8)
        self._count = itertools.count()
        # empty where it can't be told
        self.boot = _boot_id()
        self._session: int | None = None

    def begin(self) -> None:
        """Have it known that this process uses the cache. OSError where no file can be made."""
        staged = f"{self.root}/tmp/{self._token}-session"
        self._session = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # locked before others can see it, so that it never looks abandoned
        fcntl.flock(self._session, fcntl.LOCK_EX)
        os.rename(staged, self._session_path)

    @property
    def _session_path(self) -> str:
        return f"{self.root}/sessions/{self._token}"

    def close(self) -> None:
        """Nothing of this process is left half-done. May be repeated."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._session_path)
            os.close(self._session)
            self._session = None

    def staged_path(self) -> str:
        """Where a file can be written before it has its name; a crash of this process leaves nothing there."""
        return f"{self.root}/tmp/{self._token}-{next(self._count)}"

    @contextlib.contextmanager
    def staged(self) -> Iterator[IO[bytes]]:
        """A file under tmp/ that is gone afterwards unless publish() renamed it."""
        path = self.staged_path()
        try:
            with open(path, "xb", opener=_private) as file:
                yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def publish(self, staged: IO[bytes], path: str | Path) -> None:
        """Give a staged file its name."""
        staged.flush()
        try:
            os.rename(staged.name, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(staged.name, path)

    def is_believed(self, name: str) -> bool:
        """Whether an entry (`PART/NAME`) was verified, and no process or machine has crashed since."""
        try:
            with open(self._belief(name)) as file:
                return bool(self.boot) and file.read() == self.boot
        except OSError:
            return False

    def believe(self, name: str) -> None:
        """An entry has just been verified, or written by who knows its bytes."""
        with contextlib.suppress(OSError), self.staged() as staged:
            staged.write(self.boot.encode())
            self.publish(staged, self._belief(name))

    def disbelieve(self, name: str) -> None:
        """An entry is gone, or is not what it should be."""
        with contextlib.suppress(OSError):
            os.unlink(self._belief(name))

    def _belief(self, name: str) -> str:
        return f"{self.root}/believed/{name.replace('/', '-')}"

    def pin(self, name: str) -> None:
        """Keep an entry (`PART/NAME`) for as long as this process lives."""
        if self._session is not None:
            with contextlib.suppress(OSError):
                os.write(self._session, f"{name}\n".encode())

    def pinned(self) -> set[str]:
        """The entries that living processes have pinned."""
        found: set[str] = set()
        for path in (self.root / "sessions").iterdir():
            with contextlib.suppress(OSError):
                found.update(path.read_text().splitlines())
        return found

    def sweep(self) -> None:
        """Clean up behind processes that have crashed."""
        for path in list((self.root / "sessions").iterdir()):
            if _is_abandoned(path):
                # beliefs first: whoever is killed in between leaves the session for the next to find
                for part, pattern in (("believed", "*"), ("tmp", f"{path.name}-*")):
                    for file in (self.root / part).glob(pattern):
                        file.unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def open_cache_directory(root: Path) -> CacheDirectory:
    """The directory, made where it is missing, and swept; CrfsError with the path where it can't be used."""
    try:
        for part in _PARTS:
            (root / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        cache = CacheDirectory(root)
    except OSError as error:
        raise CrfsError(f"{root}: the cache can't be used: {error.strerror}") from error
    with contextlib.suppress(OSError):
        # one that is full, or may only be read, is of use all the same
        cache.sweep()
        cache.begin()
    return cache


def _is_abandoned(session: Path) -> bool:
    try:
        fd = os.open(session, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _boot_id() -> str:
    """A name of this boot of the machine; empty where it can't be told, and nothing is believed."""
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
