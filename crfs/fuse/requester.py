"""Who waits for an answer. llfuse learns of no interrupt, so a handler that waits looks for itself."""

import contextlib
import functools
import os
import select
import signal
from collections.abc import Iterable, Mapping

# capabilities(7): to do what is a file's owner's, or as if one were of its group
CAP_FOWNER, _CAP_FSETID = 3, 4
_SIGKILL = 1 << (signal.SIGKILL - 1)


def has_left(thread: int) -> bool:
    """Whether nobody wants an answer any more that a thread has asked for."""
    return is_dying(thread) or is_disconnected()


def is_dying(thread: int) -> bool:
    """Whether a thread has been killed, and only waits for our answer to end (proc(5), SigPnd and ShdPnd).

    Every signal that ends a process is a pending SIGKILL of all its threads by then. False for a thread that
    is gone or that this process can't see (0): somebody else may be using its file.
    """
    status = _status(thread)
    return any(int(status.get(field, b"0"), 16) & _SIGKILL for field in (b"SigPnd", b"ShdPnd"))


def may_keep_setgid(thread: int, group: int) -> bool:
    """Whether a thread is of a group, or may do as if it were (CAP_FSETID); False where that can't be seen."""
    status = _status(thread)
    groups = status.get(b"Gid", b"").split()[-1:] + status.get(b"Groups", b"").split()
    return b"%d" % group in groups or _has(status, _CAP_FSETID)


def has_capability(thread: int, number: int) -> bool:
    """Whether a thread may use a capability; False where that can't be seen."""
    return _has(_status(thread), number)


def _has(status: Mapping[bytes, bytes], number: int) -> bool:
    return bool(int(status.get(b"CapEff", b"0"), 16) >> number & 1)


def _status(thread: int) -> dict[bytes, bytes]:
    """What the kernel tells of a thread (proc(5)); nothing where it is gone, or can't be seen."""
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            lines = status.read().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(b":") for line in lines)}


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
