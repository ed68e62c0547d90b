"""What the disk cache may take up: measured, and brought down by removing what was used longest ago.

Sizes are what files take on disk. Any process may evict at any time: who wants what is gone fetches it again,
and what is open stays readable. Entries that a living process has pinned are left alone.
"""

import contextlib
import fcntl
import heapq
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from crfs.blobs.cachedir import CacheDirectory

log = logging.getLogger(__name__)
# parts that are evicted; what is in the others is small, and of use for longer
EVICTABLE = ("chunks", "objects", "layers", "trees", "images")
_SHARE, _SIZE_MAX = 10, 20_000_000_000
_FREE_SHARE, _FREE_MAX = 20, 1 << 30


class Limits(Struct, frozen=True):
    """`size`: bytes that the cache may take; `free`: bytes that it leaves free on its file system."""

    size: int
    free: int


def default_limits(root: Path, size: int | None = None, free: int | None = None) -> Limits:
    """Where they are not given: a tenth of the file system, at most 20 GB; a twentieth of it, at most 1 GiB."""
    found = os.statvfs(root)
    total = found.f_frsize * found.f_blocks
    return Limits(
        min(total // _SHARE, _SIZE_MAX) if size is None else size,
        min(total // _FREE_SHARE, _FREE_MAX) if free is None else free,
    )


def free_bytes(root: Path) -> int:
    """What is free for this user."""
    found = os.statvfs(root)
    return found.f_frsize * found.f_bavail


class Entry(Struct, frozen=True, order=True):
    """A file of the cache: when it was last used, its bytes on disk, and its `PART/NAME`."""

    used_ns: int
    size: int
    name: str


def iter_entries(root: Path, part: str) -> Iterator[Entry]:
    """The files of a part, in no order; what goes away meanwhile is passed over."""
    stack = [f"{root}/{part}"]
    while stack:
        directory = stack.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    stack.append(item.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = item.stat(follow_symlinks=False)
                    if part == "objects" and status.st_nlink > 1:
                        # a chunk's other name
                        continue
                    yield Entry(status.st_atime_ns, status.st_blocks * 512, f"{part}/{item.name}")


def entry_path(root: Path, name: str) -> Path:
    """Where an entry lies: chunks and objects have a level of directories more."""
    part, _, leaf = name.partition("/")
    return root / part / leaf[:2] / leaf if part in ("chunks", "objects") else root / part / leaf


def remove_entry(directory: CacheDirectory, entry: Entry) -> bool:
    """Remove an entry; whether it was there and could be."""
    directory.disbelieve(entry.name)
    if entry.name.startswith("chunks/"):
        entry_path(directory.root, f"objects/{entry.name[7:]}").unlink(missing_ok=True)
    try:
        entry_path(directory.root, entry.name).unlink()
    except OSError:
        return False
    return True


class Evicted(Struct, frozen=True):
    """What was removed, and what is left, in bytes."""

    entries: int
    removed: int
    left: int


def evict(directory: CacheDirectory, limit: int, older_ns: int = 0) -> Evicted:
    """Remove what was used longest ago until no more than `limit` is left, and all that is `older_ns` or more.

    One process at a time: who comes second waits, and finds that there is nothing left to do.
    """
    with _alone(directory):
        entries = [entry for part in EVICTABLE for entry in iter_entries(directory.root, part)]
        left = total = sum(entry.size for entry in entries)
        pinned = directory.pinned()
        heapq.heapify(entries)
        count = 0
        while entries and (left > limit or entries[0].used_ns < older_ns):
            entry = heapq.heappop(entries)
            if entry.name not in pinned and remove_entry(directory, entry):
                left -= entry.size
                count += 1
        store_usage(directory, left)
    return Evicted(count, total - left, left)


@contextlib.contextmanager
def _alone(directory: CacheDirectory) -> Iterator[None]:
    fd = os.open(directory.root / "evicting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# how much there is, as all processes that write have counted since the last look at everything


def load_usage(directory: CacheDirectory) -> int | None:
    """The count in bytes; None if nobody has looked yet."""
    try:
        return int((directory.root / "usage").read_text())
    except (OSError, ValueError):
        return None


def store_usage(directory: CacheDirectory, size: int) -> None:
    """Begin the count anew."""
    with contextlib.suppress(OSError), directory.staged() as staged:
        staged.write(str(size).encode())
        directory.publish(staged, directory.root / "usage")


def add_usage(directory: CacheDirectory, size: int) -> int:
    """Count what was written; the sum. A look at everything where there is no count."""
    with _alone(directory):
        before = load_usage(directory)
        if before is None:
            parts = (entry.size for part in EVICTABLE for entry in iter_entries(directory.root, part))
            total = sum(parts)
        else:
            total = before + size
        store_usage(directory, total)
    return total


class Keeper:
    """Keeps a cache within its limits, as seen by one process that writes to it. Any thread."""

    def __init__(self, directory: CacheDirectory, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits
        self._batch = min(4 << 20, max(limits.size // 16, 1))
        self._written = 0
        self._short = False
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """What the cache may take, in bytes."""
        return self._limits.size

    def wrote(self, size: int) -> None:
        """Count bytes that were written; now and then, make room."""
        with self._lock:
            self._written += size
            if self._written >= self._batch:
                self._make_room()

    def _make_room(self) -> None:
        written, self._written = self._written, 0
        try:
            total = add_usage(self._directory, written)
            missing = self._limits.free - free_bytes(self._directory.root)
            if total > self._limits.size or missing > 0:
                goal = min(self._limits.size * 9 // 10, total - max(missing, 0))
                done = evict(self._directory, max(goal, 0))
                log.info("the cache was cut to %d bytes: %d entries are gone", done.left, done.entries)
            self._short = self._lacks_room()
        except OSError as error:
            log.warning(
                "%s: the cache can't be kept within its limits: %s", self._directory.root, error.strerror
            )

    def _lacks_room(self) -> bool:
        return free_bytes(self._directory.root) < self._limits.free

    def may_write(self) -> bool:
        """Whether the file system has as much left as it is to keep; what others fill up is theirs to free."""
        if self._short:
            self._short = self._lacks_room()
        return not self._short

    def close(self) -> None:
        """Leave the count as it is."""
        with self._lock, contextlib.suppress(OSError):
            if self._written:
                self._make_room()
