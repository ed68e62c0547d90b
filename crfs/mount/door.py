"""Where a process listens that others find by a name, and the lock that says that nobody else does.

A command that is handed over loads this: nothing is imported here that takes a while (crfs.mount.handover).
"""

import _socket
import fcntl
import os

# as many mounts as may be asked for at once
_BACKLOG = 1024
_LOCK = ".lock"


class Door:
    """A listening socket, at `path`, and its lock. close() from any thread."""

    def __init__(self, listener: _socket.socket, lock: int, path: str) -> None:
        self.listener = listener
        self.lock = lock
        self.path = path

    def close(self) -> None:
        """Let nobody in any more, and another one listen here."""
        remove(self.path)
        remove(lock_path(self.path))
        try:
            # wakes who waits for the next, as close() would not
            self.listener.shutdown(_socket.SHUT_RDWR)
        finally:
            self.leave()

    def leave(self) -> None:
        """Close what this process has of it; another one goes on."""
        self.listener.close()
        os.close(self.lock)


def open_door(path: str) -> Door | None:
    """Listen there; None where somebody else does, or is about to. OSError."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    lock = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the one before may have removed it in between
        if os.stat(lock_path(path)).st_ino != os.fstat(lock).st_ino:
            raise FileNotFoundError
        return Door(_listen(path), lock, path)
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise


def _listen(path: str) -> _socket.socket:
    remove(path)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def lock_path(path: str) -> str:
    """Where the lock of a door lies."""
    return os.path.splitext(path)[0] + _LOCK


def remove(path: str) -> None:
    """Take a file away, if it is there still."""
    try:
        os.unlink(path)
    except OSError:
        return
