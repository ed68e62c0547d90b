"""Directories read as getdents64(2) gives them, and steps that do so."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fsops.calls import libc
from tests.support.fsops.step import Place, Step, run_step

_DIRENT = struct.Struct("=QqHB")
_KINDS = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFLNK, stat.S_IFSOCK)
_TYPES = {kind >> 12: stat.filemode(kind)[0] for kind in _KINDS}


def _names(directory: int) -> set[bytes]:
    with open_directory(b".", directory) as again:
        return {name for _, name in _entries(again)}


def listing(directory: int) -> list[tuple[bytes, str, bool]]:
    """Name, letter of the type, and whether its number is the one that stat(2) shows, sorted."""
    entries = sorted(_entries(directory), key=lambda entry: entry[1])
    return [(name, _TYPES.get(kind, "?"), _agrees(directory, name, ino)) for (ino, kind), name in entries]


def _agrees(directory: int, name: bytes, ino: int) -> bool:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == ino


def _entries(directory: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    while entries := list(getdents(directory, 1 << 15)):
        yield from entries


def getdents(directory: int, size: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """getdents64(2) without `.` and `..`: inode number and type, and the name; nothing at the end.

    Where a buffer of `size` bytes holds no entry, a larger one is used.
    """
    found: list[tuple[tuple[int, int], bytes]] = []
    while not found:
        buffer = ctypes.create_string_buffer(size)
        length = libc.getdents64(directory, buffer, size)
        if length < 0 and ctypes.get_errno() == errno.EINVAL and size < 1 << 12:
            size *= 4
            continue
        if length < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        if length == 0:
            return
        found = [entry for entry in _unpack(buffer.raw[:length]) if entry[1] not in (b".", b"..")]
    yield from found


def _unpack(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    at = 0
    while at < len(data):
        ino, _, length, kind = _DIRENT.unpack_from(data, at)
        yield (ino, kind), data[at + _DIRENT.size : at + length].partition(b"\0")[0]
        at += length


@contextlib.contextmanager
def open_directory(path: bytes, above: int | None = None) -> Iterator[int]:
    """A descriptor of a directory, closed afterwards."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True, repr=False)
class ListDirectory(Step):
    """The entries with their types, sorted; an inode number that is not the one of lstat(2) is marked."""

    path: bytes

    def run(self, place: Place) -> object:
        with open_directory(self.path) as descriptor:
            return listing(descriptor)


@dataclass(frozen=True, slots=True, repr=False)
class ReadWhile(Step):
    """Read a directory a few entries at a time, with a step in between each time until there are no more of both.

    Answers those steps' answers, and what POSIX forbids: which names that were there all the time came never or
    twice, and which came that were never there.
    """

    path: bytes
    steps: tuple[Step, ...]
    size: int = 128

    def run(self, place: Place) -> object:
        with open_directory(self.path) as descriptor:
            ever = steady = _names(descriptor)
            seen: list[bytes] = []
            answers: list[object] = []
            waiting = list(self.steps)
            while (entries := list(getdents(descriptor, self.size))) or waiting:
                seen += [name for _, name in entries]
                if waiting:
                    answers.append(run_step(waiting.pop(0), place))
                    now = _names(descriptor)
                    ever, steady = ever | now, steady & now
        twice = {name for name in steady if seen.count(name) > 1}
        return answers, sorted(steady - set(seen)), sorted(twice), sorted(set(seen) - ever)
