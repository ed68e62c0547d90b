"""Which process fetches which part of a blob, for all that share a cache: what one has begun, the others wait for.

A part is a MiB of a blob, and has a byte of `ROOT/flights` that is locked while somebody fetches it (fcntl(2), open
file description locks): the lock ends with its process. It is advice: where there is no lock to be had, or another
takes too long, all go on.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PART = 1 << 20
# how long another process may take for what a reader of this one waits for
WAIT_SECONDS = 10.0
_POLL_FIRST, _POLL_LAST = 0.004, 0.032
# struct flock: type, whence, start, length, pid
_FLOCK = struct.Struct("hhqqi0q")
_HELD = {errno.EAGAIN, errno.EACCES}


class Flights:
    """Those of this process, in the cache at `root`. begin() on the fetch loop, end() on any thread."""

    def __init__(self, root: Path) -> None:
        self._path = root / "flights"
        self._fd: int | None = None
        self._lock = threading.Lock()
        # parts that are locked, and how often they were asked for here
        self._parts: Counter[int] = Counter()

    def close(self) -> None:
        """Others may fetch whatever is left."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)

    async def begin(self, blob: str, start: int, end: int, landed: Callable[[], bool]) -> bool:
        """True once this process may fetch the bytes [start, end); end() must follow.

        Where another process fetches some of them, `landed` is asked now and then: once it is true, nothing is to be
        fetched any more, and False comes back.
        """
        until, pause = time.monotonic() + WAIT_SECONDS, _POLL_FIRST
        while not self._try(blob, start, end, last=time.monotonic() > until):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _POLL_LAST)
            if landed():
                return False
        if landed():
            # before it was our turn, however short that took
            self.end(blob, start, end)
            return False
        return True

    def end(self, blob: str, start: int, end: int) -> None:
        """What was begun is in the cache, or has failed."""
        with self._lock:
            self._unlock_locked(_parts(blob, start, end))

    def _try(self, blob: str, start: int, end: int, *, last: bool) -> bool:
        """All parts, or none; `last`: without those that others hold."""
        taken: list[int] = []
        with self._lock:
            for part in _parts(blob, start, end):
                if not (self._parts[part] or self._set_locked(part, fcntl.F_WRLCK) or last):
                    self._unlock_locked(taken)
                    return False
                self._parts[part] += 1
                taken.append(part)
        return True

    def _unlock_locked(self, parts: list[int]) -> None:
        for part in parts:
            self._parts[part] -= 1
            if not self._parts[part]:
                del self._parts[part]
                self._set_locked(part, fcntl.F_UNLCK)

    def _set_locked(self, part: int, kind: int) -> bool:
        """Lock or unlock a part; False where another process holds it."""
        if self._fd is None and kind == fcntl.F_UNLCK:
            # closed meanwhile, which has unlocked all
            return True
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, part, 1, 0))
        except OSError as error:
            return error.errno not in _HELD
        return True


def _parts(blob: str, start: int, end: int) -> list[int]:
    """The bytes of the file that stand for the parts that [start, end) of a blob lies in."""
    first = int.from_bytes(hashlib.sha256(blob.encode()).digest()[:6], "little") << 8
    return sorted({first + number for number in range(start // PART, (max(end, start + 1) - 1) // PART + 1)})
