"""renameat2(2), which Python's os.rename() does not reach."""

import ctypes
import os

# linux/fs.h
EXCHANGE = 1 << 1
WHITEOUT = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """Rename between two open directories; OSError."""
    if _libc.renameat2(old_dir, old, new_dir, new, ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(old))
