"""Who of the processes that share a cache does what, so that none does again what another is doing. Any thread.

A claim is a lock on one byte of `ROOT/claims`, which byte says its name (fcntl(2), open file description
locks): it ends with its process, and leaves no file behind. It is advice: where no lock can be had, all go on.
"""

import fcntl
import hashlib
import os
import struct
import time
from pathlib import Path

# struct flock: type, whence, start, length, pid
_FLOCK = struct.Struct("hhqqi0q")
# many may wait for one
_POLL_FIRST, _POLL_LAST = 0.002, 0.02


class Claim:
    """Use try_claim(); release() ends it, and may be repeated."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def release(self) -> None:
        """Others may go on."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def try_claim(root: Path, name: str) -> Claim | None:
    """The claim of that name in the cache at `root`, or None: another has it."""
    try:
        fd = _open(root)
    except OSError:
        return Claim(None)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(name))
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        return Claim(None)
    return Claim(fd)


def await_release(root: Path, name: str, seconds: float) -> None:
    """Return once nobody has the claim, or after so many seconds all the same."""
    until, pause = time.monotonic() + seconds, _POLL_FIRST
    while is_claimed(root, name) and time.monotonic() < until:
        time.sleep(pause)
        pause = min(2 * pause, _POLL_LAST)


def is_claimed(root: Path, name: str) -> bool:
    """Whether anybody has the claim now."""
    try:
        fd = _open(root)
    except OSError:
        return False
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(name))
    except OSError:
        return False
    finally:
        os.close(fd)
    return int(_FLOCK.unpack(found)[0]) != fcntl.F_UNLCK


def _open(root: Path) -> int:
    return os.open(root / "claims", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(name: str) -> bytes:
    """A lock for writing on the byte that stands for a name."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
