"""Steps that make, move and remove names."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fsops.directories import getdents, open_directory
from tests.support.fsops.step import Place, Step


@dataclass(frozen=True, slots=True, repr=False)
class Mkdir(Step):
    path: bytes
    mode: int = 0o755

    def run(self, place: Place) -> object:
        os.mkdir(self.path, self.mode)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Mknod(Step):
    """A fifo, a socket, a device, or a regular file, as the type in `mode` says."""

    path: bytes
    mode: int
    major: int = 0
    minor: int = 0

    def run(self, place: Place) -> object:
        os.mknod(self.path, self.mode, os.makedev(self.major, self.minor))
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Symlink(Step):
    target: bytes
    path: bytes

    def run(self, place: Place) -> object:
        os.symlink(self.target, self.path)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Link(Step):
    source: bytes
    path: bytes

    def run(self, place: Place) -> object:
        os.link(self.source, self.path, follow_symlinks=False)
        return place.describe(os.lstat(self.path))


@dataclass(frozen=True, slots=True, repr=False)
class Unlink(Step):
    path: bytes

    def run(self, place: Place) -> object:
        os.unlink(self.path)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Rmdir(Step):
    path: bytes

    def run(self, place: Place) -> object:
        os.rmdir(self.path)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Rename(Step):
    source: bytes
    path: bytes

    def run(self, place: Place) -> object:
        os.rename(self.source, self.path)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class RemoveTree(Step):
    """As `rm -rf` does it: names go while the directory that has them is read. Answers what would not go."""

    path: bytes

    def run(self, place: Place) -> object:
        parent, name = os.path.split(self.path.rstrip(b"/"))
        with open_directory(parent or b".") as above:
            return sorted(_remove_tree(above, name))


def _remove_tree(above: int, name: bytes) -> Iterator[tuple[bytes, str]]:
    try:
        with open_directory(name, above) as directory:
            while entries := list(getdents(directory, 1024)):
                for _, entry in entries:
                    yield from ((os.path.join(name, path), why) for path, why in _remove(directory, entry))
        os.rmdir(name, dir_fd=above)
    except OSError as error:
        yield name, errno.errorcode[error.errno or 0]


def _remove(directory: int, name: bytes) -> Iterator[tuple[bytes, str]]:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        yield from _remove_tree(directory, name)
    except OSError as error:
        yield name, errno.errorcode[error.errno or 0]
