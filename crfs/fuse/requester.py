"""Who waits for an answer. llfuse learns of no interrupt, so a handler that waits looks for itself."""

import contextlib
import functools
import os
import select
import signal
from collections.abc import Iterable

_SIGKILL = 1 << (signal.SIGKILL - 1)


def has_left(thread: int) -> bool:
    """Whether nobody wants an answer any more that a thread has asked for."""
    return is_dying(thread) or is_disconnected()


def is_dying(thread: int) -> bool:
    """Whether a thread has been killed, and only waits for our answer to end (proc(5), SigPnd and ShdPnd).

    Every signal that ends a process is a pending SIGKILL of all its threads by then. False for a thread that
    is gone or that this process can't see (0): somebody else may be using its file.
    """
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            lines = status.read().split(b"\n")
    except OSError:
        return False
    pending = [int(line[7:], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(mask & _SIGKILL for mask in pending)


def is_disconnected() -> bool:
    """Whether the kernel has ended the connection: unmounted, and the last file closed."""
    device = _find_device()
    if device is None:
        return False
    poll = select.poll()
    poll.register(device, 0)
    return bool(poll.poll(0))


@functools.cache
def _find_device() -> int | None:
    """The descriptor of /dev/fuse, which llfuse keeps to itself; there is one in a process."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
    return None


def listable(names: Iterable[bytes], uid: int) -> list[bytes]:
    """Names of extended attributes that a user is shown: `trusted.` is root's (xattr(7))."""
    return [name for name in names if uid == 0 or not name.startswith(b"trusted.")]
