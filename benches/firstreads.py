"""When each file of a mount is first read, as the kernel tells by fanotify(7). Needs root."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ACCESS, _ADD, _MOUNT, _AT_FDCWD = 0x1, 0x1, 0x10, -100
_CLOEXEC, _NONBLOCK = 0x1, 0x2
# struct fanotify_event_metadata
_EVENT = struct.Struct("=IBBHQii")


@contextmanager
def first_reads(mount: Path) -> Iterator[dict[str, float]]:
    """While the block runs, time.monotonic() of each file's first read, by its path below the mount.

    Pages that come by mmap are not seen, but a loader reads the head of a file before it maps it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.fanotify_init(_CLOEXEC | _NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
    _check(queue)
    _check(libc.fanotify_mark(queue, _ADD | _MOUNT, ctypes.c_uint64(_ACCESS), _AT_FDCWD, os.fsencode(mount)))
    seen: dict[str, float] = {}
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(queue, mount, seen, over))
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
        os.close(queue)


def _watch(queue: int, mount: Path, seen: dict[str, float], over: threading.Event) -> None:
    poll = select.poll()
    poll.register(queue, select.POLLIN)
    while poll.poll(50) or not over.is_set():
        try:
            events = os.read(queue, 1 << 16)
        except BlockingIOError:
            continue
        now = time.monotonic()
        for event in _EVENT.iter_unpack(events):
            path = os.readlink(f"/proc/self/fd/{event[5]}")
            os.close(event[5])
            seen.setdefault(os.path.relpath(path, mount), now)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "fanotify")
