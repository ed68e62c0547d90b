"""Tells when a file system is gone: unmounted in every mount namespace, and its last file closed (inotify(7)).

A watch holds on to nothing: whoever unmounts does not find it busy.
"""

import ctypes
import os
import struct
from collections.abc import Callable

# sys/inotify.h; what is asked for does not happen to the root of a file system, and what is waited for need not be
_IN_DELETE_SELF = 0x400
_IN_UNMOUNT = 0x2000
_EVENT = struct.Struct("iIII")
_EVENTS_MAX = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Unmounts:
    """watch() from any thread; run() in one of its own."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC))

    def watch(self, root: int) -> int:
        """A number for the file system whose root the descriptor `root` is. OSError."""
        return _checked(_libc.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % root, _IN_DELETE_SELF))

    def run(self, gone: Callable[[int], None]) -> None:
        """Call `gone` with the number of each that is; for ever."""
        while True:
            events = os.read(self._fd, _EVENT.size * _EVENTS_MAX)
            for number, mask, _, _ in _EVENT.iter_unpack(events):
                if mask & _IN_UNMOUNT:
                    gone(number)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
