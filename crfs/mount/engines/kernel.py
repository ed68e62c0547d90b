"""The kernel's own file systems: mount(2) and umount2(2), which Python does not reach. Any thread, without the GIL."""

import ctypes
import os
import re
from collections.abc import Sequence

# sys/mount.h
MS_RDONLY = 1
_FLAGS = {"ro": MS_RDONLY, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "noatime": 1024}
_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync", "atime": "noatime"}
_DETACH = 2
_NOFOLLOW = 8
# what mount(2) takes of options
DATA_MAX = os.sysconf("SC_PAGE_SIZE") - 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
    """Mount; OSError."""
    _check(_libc.mount(source, target, fstype, flags, data), target)


def detach(target: bytes) -> None:
    """Take a mount out of the tree of names; what still uses it goes on. OSError."""
    _check(_libc.umount2(target, _DETACH | _NOFOLLOW), target)


def _check(result: int, path: bytes) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))


def mount_flags(options: Sequence[str]) -> int:
    """What mount(2) has flags for, of options as in mount(8); the last word counts."""
    flags = 0
    for option in options:
        flags |= _FLAGS.get(option, 0)
        flags &= ~_FLAGS.get(_OPPOSITES.get(option, ""), 0)
    return flags


def escaped(path: bytes) -> bytes:
    """A path as overlayfs takes it in an option."""
    return re.sub(rb"[\\,:]", rb"\\\g<0>", path)
