"""Directories as readdir(3) and its relatives read them: offsets and types included."""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class _Dirent(ctypes.Structure):
    """struct dirent of 64-bit Linux (readdir(3))."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Dirent:
    name: bytes
    inode: int
    type: int


class Stream:
    """A directory stream of libc; a context that ends with closedir(3)."""

    def __init__(self, path: Path) -> None:
        self._stream = ctypes.c_void_p(_libc.opendir(os.fsencode(path)))
        assert self._stream, os.strerror(ctypes.get_errno())

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Dirent]:
        while entry := _libc.readdir(self._stream):
            found = entry.contents
            yield Dirent(found.d_name, found.d_ino, found.d_type)

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        _libc.closedir(self._stream)
