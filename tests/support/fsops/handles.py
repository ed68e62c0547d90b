"""Steps of open files."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from dataclasses import dataclass

from tests.support.fsops.calls import Time, digest, set_times, utimensat, xattr_flags
from tests.support.fsops.directories import listing
from tests.support.fsops.step import Place, Step, run_step

_ALWAYS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# madvise(2), Linux 5.14: a page that can't be had is an error, and no signal
_MADV_POPULATE_READ = 22
# what `MapRead` answers
STALE = "other bytes than read(2)"


@dataclass(frozen=True, slots=True, repr=False)
class Open(Step):
    """Open `path` as handle number `handle`; answers its fstat."""

    handle: int
    path: bytes
    flags: int
    mode: int = 0o644

    def run(self, place: Place) -> object:
        descriptor = os.open(self.path, self.flags | _ALWAYS, self.mode)
        place.keep(self.handle, descriptor)
        return place.describe(os.fstat(descriptor))


@dataclass(frozen=True, slots=True, repr=False)
class Close(Step):
    handle: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        del place.handles[self.handle]
        os.close(descriptor)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class Read(Step):
    """`size` bytes, from `offset` or from where the file is."""

    handle: int
    size: int
    offset: int | None = None

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        if self.offset is None:
            return digest(os.read(descriptor, self.size))
        return digest(os.pread(descriptor, self.size, self.offset))


@dataclass(frozen=True, slots=True, repr=False)
class Write(Step):
    """`data`, `times` times in one call, at `offset` or where the file is."""

    handle: int
    data: bytes
    times: int = 1
    offset: int | None = None

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        data = self.data * self.times
        if self.offset is None:
            return os.write(descriptor, data)
        return os.pwrite(descriptor, data, self.offset)


@dataclass(frozen=True, slots=True, repr=False)
class Seek(Step):
    """In a file: offsets in directories are each file system's own."""

    handle: int
    offset: int
    whence: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, "not in directories")
        return os.lseek(descriptor, self.offset, self.whence)


@dataclass(frozen=True, slots=True, repr=False)
class MapWrite(Step):
    """Write through a shared mapping, and msync(2). Only within the file: beyond is SIGBUS."""

    handle: int
    data: bytes
    offset: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        end = self.offset + len(self.data)
        if not _mappable(descriptor, end):
            return "too short"
        with mmap.mmap(descriptor, end, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            mapped[self.offset : end] = self.data
            mapped.flush()
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class MapRead(Step):
    """The whole file through a mapping; `STALE` where that is of another file than what is read."""

    handle: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        if not _mappable(descriptor, 1):
            return "too short"
        size = os.fstat(descriptor).st_size
        with mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            if not _is_populated(mapped):
                return STALE
            found = mapped[:]
        return digest(found) if found == os.pread(descriptor, size, 0) else STALE


def _is_populated(mapped: mmap.mmap) -> bool:
    """Have all of its pages; False where the file that they are of has fewer."""
    try:
        mapped.madvise(_MADV_POPULATE_READ)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return False
    return True


def _mappable(descriptor: int, size: int) -> bool:
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_size >= size


@dataclass(frozen=True, slots=True, repr=False)
class HandleStat(Step):
    handle: int

    def run(self, place: Place) -> object:
        return place.describe(os.fstat(place.handle(self.handle)))


@dataclass(frozen=True, slots=True, repr=False)
class HandleTruncate(Step):
    handle: int
    size: int

    def run(self, place: Place) -> object:
        os.ftruncate(place.handle(self.handle), self.size)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class HandleSync(Step):
    handle: int
    data_only: bool = False

    def run(self, place: Place) -> object:
        (os.fdatasync if self.data_only else os.fsync)(place.handle(self.handle))
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class HandleChmod(Step):
    handle: int
    mode: int

    def run(self, place: Place) -> object:
        os.fchmod(place.handle(self.handle), self.mode)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class HandleChown(Step):
    handle: int
    uid: int
    gid: int

    def run(self, place: Place) -> object:
        os.fchown(place.handle(self.handle), self.uid, self.gid)
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class HandleUtime(Step):
    """See `Utime`."""

    handle: int
    atime: Time
    mtime: Time

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        utimensat(descriptor, None, (self.atime, self.mtime), 0)
        return set_times(os.fstat(descriptor), (self.atime, self.mtime))


@dataclass(frozen=True, slots=True, repr=False)
class HandleSetXattr(Step):
    handle: int
    name: str
    value: bytes
    create: bool = False
    replace: bool = False

    def run(self, place: Place) -> object:
        os.setxattr(place.handle(self.handle), self.name, self.value, xattr_flags(self.create, self.replace))
        return "ok"


@dataclass(frozen=True, slots=True, repr=False)
class HandleXattrs(Step):
    handle: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        return {name: digest(os.getxattr(descriptor, name)) for name in sorted(os.listxattr(descriptor))}


@dataclass(frozen=True, slots=True, repr=False)
class HandleList(Step):
    """The entries of an open directory."""

    handle: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return listing(descriptor)


@dataclass(frozen=True, slots=True, repr=False)
class Within(Step):
    """A step whose relative paths start at an open directory."""

    handle: int
    step: Step

    def run(self, place: Place) -> object:
        os.fchdir(place.handle(self.handle))
        try:
            return run_step(self.step, place)
        finally:
            os.chdir("/")
