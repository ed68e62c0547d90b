"""Steps that change attributes of names."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from tests.support.fsops.calls import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    Time,
    digest,
    set_times,
    utimensat,
    xattr_flags,
)
from tests.support.fsops.step import Place, Step


@dataclass(frozen=True, slots=True, repr=False)
class Chmod(Step):
    path: bytes
    mode: int

    def run(self, place: Place) -> object:
        os.chmod(self.path, self.mode)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Chown(Step):
    path: bytes
    uid: int
    gid: int
    follow: bool = True

    def run(self, place: Place) -> object:
        os.chown(self.path, self.uid, self.gid, follow_symlinks=self.follow)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Utime(Step):
    """utimensat(2): a time may be "now", or "omit" to leave it as it is. Answers those that were set."""

    path: bytes
    atime: Time
    mtime: Time
    follow: bool = True

    def run(self, place: Place) -> object:
        times = self.atime, self.mtime
        utimensat(AT_FDCWD, self.path, times, 0 if self.follow else AT_SYMLINK_NOFOLLOW)
        return set_times(os.stat(self.path, follow_symlinks=self.follow), times)


@dataclass(frozen=True, slots=True, repr=False)
class Truncate(Step):
    """To another size: FUSE can't tell truncate(2) from O_TRUNC, of which only the latter always sets the mtime."""

    path: bytes
    size: int

    def run(self, place: Place) -> object:
        status = os.stat(self.path)
        if stat.S_ISREG(status.st_mode) and status.st_size == self.size:
            return "as it is"
        os.truncate(self.path, self.size)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class SetXattr(Step):
    path: bytes
    name: str
    value: bytes
    create: bool = False
    replace: bool = False
    follow: bool = True

    def run(self, place: Place) -> object:
        flags = xattr_flags(self.create, self.replace)
        os.setxattr(self.path, self.name, self.value, flags, follow_symlinks=self.follow)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class GetXattr(Step):
    path: bytes
    name: str
    follow: bool = True

    def run(self, place: Place) -> object:
        return digest(os.getxattr(self.path, self.name, follow_symlinks=self.follow))


@dataclass(frozen=True, slots=True, repr=False)
class ListXattr(Step):
    path: bytes
    follow: bool = True

    def run(self, place: Place) -> object:
        return sorted(os.listxattr(self.path, follow_symlinks=self.follow))


@dataclass(frozen=True, slots=True, repr=False)
class RemoveXattr(Step):
    path: bytes
    name: str
    follow: bool = True

    def run(self, place: Place) -> object:
        os.removexattr(self.path, self.name, follow_symlinks=self.follow)
        return "ok"
