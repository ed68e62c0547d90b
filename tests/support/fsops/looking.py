"""Steps that only look."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass

from tests.support.fsops.calls import digest, xattrs
from tests.support.fsops.step import Place, Step

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Stat(Step):
    path: bytes
    follow: bool = False

    def run(self, place: Place) -> object:
        return place.describe(os.stat(self.path, follow_symlinks=self.follow))


@dataclass(frozen=True, slots=True, repr=False)
class Readlink(Step):
    path: bytes

    def run(self, place: Place) -> object:
        return os.readlink(self.path)


@dataclass(frozen=True, slots=True, repr=False)
class Access(Step):
    path: bytes
    mode: int

    def run(self, place: Place) -> object:
        return os.access(self.path, self.mode)


@dataclass(frozen=True, slots=True, repr=False)
class Statvfs(Step):
    """Only that it makes sense."""

    path: bytes

    def run(self, place: Place) -> object:
        status = os.statvfs(self.path)
        return status.f_namemax, status.f_bsize > 0, status.f_blocks >= status.f_bfree >= status.f_bavail


@dataclass(frozen=True, slots=True, repr=False)
class Look(Step):
    """All there is to say about a name."""

    path: bytes

    def run(self, place: Place) -> object:
        status = os.lstat(self.path)
        return place.describe(status), xattrs(self.path), _content(self.path, status.st_mode)


def _content(path: bytes, mode: int) -> object:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISDIR(mode):
        return sorted(os.listdir(path))
    return _file_digest(path) if stat.S_ISREG(mode) else None


def _file_digest(path: bytes) -> bytes | str:
    with open(path, "rb", buffering=0) as file:
        return digest(b"".join(iter(lambda: file.read(_PIECE), b"")))


@dataclass(frozen=True, slots=True, repr=False)
class Walk(Step):
    """Every path below the root with the letter of its type, sorted."""

    def run(self, place: Place) -> object:
        found, waiting = [(b".", "d")], [b""]
        while waiting:
            for entry in os.scandir(b"./" + (prefix := waiting.pop())):
                kind = stat.filemode(entry.stat(follow_symlinks=False).st_mode)[0]
                found.append((prefix + entry.name, kind))
                waiting += [prefix + entry.name + b"/"] if kind == "d" else []
        return sorted(found)


@dataclass(frozen=True, slots=True, repr=False)
class Inodes(Step):
    """The inode number of every path, and what is wrong with them: directories that tell others, and duplicates."""

    def run(self, place: Place) -> object:
        numbers, names, links, wrong = {}, Counter[int](), dict[int, int](), []
        waiting = [b""]
        while waiting:
            for entry in os.scandir(b"./" + (prefix := waiting.pop())):
                status, path = entry.stat(follow_symlinks=False), prefix + entry.name
                directory = stat.S_ISDIR(status.st_mode)
                if entry.inode() != status.st_ino:
                    wrong.append(f"{path!r} is {status.st_ino}, its directory says {entry.inode()}")
                numbers[path] = status.st_ino
                names[status.st_ino] += 1
                links[status.st_ino] = 1 if directory else status.st_nlink
                waiting += [path + b"/"] if directory else []
        wrong += [f"{number} has {names[number]} names" for number in names if names[number] > links[number]]
        return numbers, wrong
