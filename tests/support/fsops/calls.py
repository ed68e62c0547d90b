"""System calls that Python has not, or not like that, and values that can be compared. Any thread."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct

_SHORT = 48
# a time in ns, "now" or "omit" (utimensat(2))
Time = int | str
_SPECIAL_TIMES = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100
libc = ctypes.CDLL(None, use_errno=True)


def utimensat(directory: int, path: bytes | None, times: tuple[Time, Time], flags: int) -> None:
    """utimensat(2), which os.utime() is not with one of the times left out; without a path, of the open file itself."""
    pairs = [divmod(each, 10**9) if isinstance(each, int) else (0, _SPECIAL_TIMES[each]) for each in times]
    if libc.utimensat(directory, path, struct.pack("=4q", *pairs[0], *pairs[1]), flags):
        raise OSError(ctypes.get_errno(), "utimensat")


def set_times(status: os.stat_result, times: tuple[Time, Time]) -> list[int]:
    """What the times are that were asked for by their value."""
    found = zip(times, (status.st_atime_ns, status.st_mtime_ns), strict=True)
    return [now for wanted, now in found if isinstance(wanted, int)]


def xattr_flags(create: bool, replace: bool) -> int:
    """Of setxattr(2)."""
    return (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)


def xattrs(path: bytes) -> dict[str, bytes | str]:
    """All extended attributes, links not followed."""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: digest(os.getxattr(path, name, follow_symlinks=False)) for name in names}


def digest(data: bytes) -> bytes | str:
    """The bytes themselves where they are few."""
    if len(data) <= _SHORT:
        return data
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"
