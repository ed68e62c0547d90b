"""Keeps a daemon's memory near what it uses: glibc's malloc is tuned for programs with other habits."""

import ctypes
import gc

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_THRESHOLD = 128 << 10


def tame_malloc() -> None:
    """Give freed chunks back to the kernel at once, and let the workers share arenas; without glibc, nothing.

    Left alone, glibc raises its thresholds with every chunk of megabytes that is freed, and keeps an arena
    for each thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)


def settle() -> None:
    """Before a daemon begins to serve: give back what opening the image has left behind.

    What is still there will stay: no collection need look at it again, and next to nothing of it is in cycles.
    """
    gc.freeze()
    _trim()


def give_back() -> None:
    """The same for what a daemon is done with, while it goes on."""
    gc.collect()
    _trim()


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
