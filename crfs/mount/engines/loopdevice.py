"""A loop device for a file (linux/loop.h), which is free again when nobody uses it any more. Any thread."""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

CONTROL = "/dev/loop-control"
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
# loop_config: fd, block size, a loop_info64 in which all but the flags is left empty, and what is reserved
_CONFIG = struct.Struct("<II5Q4I64s64s32s2Q8Q")
# another may take the free one in between
_TRIES = 16


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    """A device with the file's bytes, to be mounted meanwhile. OSError."""
    backing = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        path, device = _configured(backing)
    finally:
        os.close(backing)
    try:
        yield Path(path)
    finally:
        os.close(device)


def _configured(backing: int) -> tuple[str, int]:
    """A device's path, and the descriptor that holds it."""
    empty = bytes(64)
    config = _CONFIG.pack(
        backing, 0, *(0,) * 5, 0, 0, 0, _READ_ONLY | _AUTOCLEAR, empty, empty, empty, *(0,) * 10
    )
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
