"""File-system calls as values: each is run at a place, and answers a value that can be compared with another's.

    run_step(Mkdir(b"dir/new", 0o755, user=1000), place)  ->  "ok", a value, or Failed("EACCES")

A place is a process's view of a tree, whose root is the process's own root: chroot(2) into a mount first, or a
symlink leads out of it. The repr of a step is Python that makes it. Used by one thread, as root: `user` is
whose rights a step has. Nothing here compares, mounts or forks.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import mmap
import os
import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# other uids that steps run as: the primary group, and the others
GROUPS = {1000: (1000, []), 1001: (1001, [2000])}
FLAGS = {
    name: int(getattr(os, name))
    for name in (
        "O_WRONLY",
        "O_RDWR",
        "O_CREAT",
        "O_EXCL",
        "O_TRUNC",
        "O_APPEND",
        "O_DIRECTORY",
        "O_NOFOLLOW",
    )
}
_ALWAYS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20
_SHORT = 48
_DIRENT = struct.Struct("=QqHB")
_KINDS = (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFLNK, stat.S_IFSOCK)
_TYPES = {kind >> 12: stat.filemode(kind)[0] for kind in _KINDS}

# one or two bytes, over and over
_RUN = re.compile(rb"(.{1,2}?)\1{15,}", re.DOTALL)

# a time in ns, "now" or "omit" (utimensat(2))
Time = int | str
_SPECIAL_TIMES = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that failed."""

    errno: str


@dataclass(slots=True)
class Place:
    """What a process has of a tree: open files by number, and the inode numbers it has seen, in their order.

    With `numbered`, descriptions tell which inodes are the same, so that one that changes its number shows.
    That works where a number is never used twice. With `counted` they have the numbers of links of files. Times
    after `since_ns` are all the same.
    """

    numbered: bool = True
    counted: bool = True
    since_ns: int = 0
    handles: dict[int, int] = field(default_factory=dict)
    _inodes: dict[int, int] = field(default_factory=dict)

    def handle(self, number: int) -> int:
        """A file descriptor; EBADF without one."""
        if number not in self.handles:
            raise OSError(errno.EBADF, "no such handle")
        return self.handles[number]

    def keep(self, number: int, descriptor: int) -> None:
        """Another open file; one that had the number before is closed."""
        previous = self.handles.pop(number, None)
        self.handles[number] = descriptor
        if previous is not None:
            os.close(previous)

    def describe(self, status: os.stat_result) -> str:
        """What is comparable of a stat: no sizes and link counts of directories, no times of just now."""
        mode, directory = status.st_mode, stat.S_ISDIR(status.st_mode)
        words = [
            stat.filemode(mode),
            f"{status.st_uid}:{status.st_gid}",
            f"mtime={self.when(status.st_mtime_ns)}",
        ]
        if not directory:
            words.append(f"size={status.st_size}")
        if self.counted and not directory:
            words.append(f"nlink={status.st_nlink}")
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            words.append(f"rdev={os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
        if self.numbered:
            words.append(f"ino=#{self._inodes.setdefault(status.st_ino, len(self._inodes))}")
        return " ".join(words)

    def when(self, at_ns: int) -> str:
        """A time, or just that it is of now."""
        return "now" if self.since_ns <= at_ns <= time.time_ns() + 10**9 else str(at_ns)


def run_step(step: Step, place: Place) -> object:
    """The answer of one step."""
    try:
        with _acting_as(step.user):
            return step.run(place)
    except OSError as error:
        return Failed(errno.errorcode.get(error.errno or 0, str(error)))


@contextlib.contextmanager
def _acting_as(user: int) -> Iterator[None]:
    if user == 0:
        yield
        return
    group, groups = GROUPS[user]
    os.setgroups(groups)
    os.setresgid(group, group, 0)
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """One call. `run` answers something comparable, or raises OSError."""

    user: int = field(default=0, kw_only=True)

    def run(self, place: Place) -> object:
        raise NotImplementedError

    def __repr__(self) -> str:
        fields = sorted(dataclasses.fields(self), key=lambda each: each.name == "user")
        values = [(each.name, getattr(self, each.name)) for each in fields if not _is_default(self, each)]
        return f"{type(self).__name__}({', '.join(f'{name}={_text(name, value)}' for name, value in values)})"


def _is_default(step: Step, each: dataclasses.Field[object]) -> bool:
    return each.default is not dataclasses.MISSING and getattr(step, each.name) == each.default


def _text(name: str, value: object) -> str:
    """An argument as Python, flags by their names and long runs as products."""
    if isinstance(value, int) and name == "flags":
        names = [flag for flag, bit in FLAGS.items() if value & bit]
        return " | ".join(f"os.{flag}" for flag in names) or "os.O_RDONLY"
    if isinstance(value, int) and name == "mode":
        return f"0o{value:o}"
    if isinstance(value, bytes) and (run := _RUN.search(value)):
        before, after = value[: run.start()], value[run.end() :]
        times = f"{run[1]!r} * {len(run[0]) // len(run[1])}"
        return " + ".join(word for word in (_text(name, before), times, _text(name, after)) if word != "b''")
    return repr(value)


# ---- open files


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
    """The whole file through a mapping."""

    handle: int

    def run(self, place: Place) -> object:
        descriptor = place.handle(self.handle)
        if not _mappable(descriptor, 1):
            return "too short"
        size = os.fstat(descriptor).st_size
        with mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            return digest(mapped[:])


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
        _utimensat(descriptor, None, (self.atime, self.mtime), 0)
        return _times(os.fstat(descriptor), (self.atime, self.mtime))


@dataclass(frozen=True, slots=True, repr=False)
class HandleSetXattr(Step):
    handle: int
    name: str
    value: bytes
    create: bool = False
    replace: bool = False

    def run(self, place: Place) -> object:
        os.setxattr(place.handle(self.handle), self.name, self.value, _xattr_flags(self.create, self.replace))
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
        return _listing(descriptor)


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


# ---- making, moving and removing names


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
        with _directory(parent or b".") as above:
            return sorted(_remove_tree(above, name))


def _remove_tree(above: int, name: bytes) -> Iterator[tuple[bytes, str]]:
    try:
        with _directory(name, above) as directory:
            while entries := list(_getdents(directory, 1024)):
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


# ---- attributes of names


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
        _utimensat(_AT_FDCWD, self.path, times, 0 if self.follow else _AT_SYMLINK_NOFOLLOW)
        return _times(os.stat(self.path, follow_symlinks=self.follow), times)


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
        flags = _xattr_flags(self.create, self.replace)
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


def _xattr_flags(create: bool, replace: bool) -> int:
    return (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)


def _utimensat(directory: int, path: bytes | None, times: tuple[Time, Time], flags: int) -> None:
    pairs = [divmod(each, 10**9) if isinstance(each, int) else (0, _SPECIAL_TIMES[each]) for each in times]
    if _libc.utimensat(directory, path, struct.pack("=4q", *pairs[0], *pairs[1]), flags):
        raise OSError(ctypes.get_errno(), "utimensat")


def _times(status: os.stat_result, times: tuple[Time, Time]) -> list[int]:
    found = zip(times, (status.st_atime_ns, status.st_mtime_ns), strict=True)
    return [now for wanted, now in found if isinstance(wanted, int)]


# ---- looking


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
class ListDirectory(Step):
    """The entries with their types, sorted; an inode number that is not the one of lstat(2) is marked."""

    path: bytes

    def run(self, place: Place) -> object:
        with _directory(self.path) as descriptor:
            return _listing(descriptor)


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
        return place.describe(status), _xattrs(self.path), _content(self.path, status.st_mode)


def _content(path: bytes, mode: int) -> object:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISDIR(mode):
        return sorted(os.listdir(path))
    return _file_digest(path) if stat.S_ISREG(mode) else None


def _xattrs(path: bytes) -> dict[str, bytes | str]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: digest(os.getxattr(path, name, follow_symlinks=False)) for name in names}


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
        with _directory(self.path) as descriptor:
            ever = steady = _names(descriptor)
            seen: list[bytes] = []
            answers: list[object] = []
            waiting = list(self.steps)
            while (entries := list(_getdents(descriptor, self.size))) or waiting:
                seen += [name for _, name in entries]
                if waiting:
                    answers.append(run_step(waiting.pop(0), place))
                    now = _names(descriptor)
                    ever, steady = ever | now, steady & now
        twice = {name for name in steady if seen.count(name) > 1}
        return answers, sorted(steady - set(seen)), sorted(twice), sorted(set(seen) - ever)


def _names(directory: int) -> set[bytes]:
    with _directory(b".", directory) as again:
        return {name for _, name in _entries(again)}


def _listing(directory: int) -> list[tuple[bytes, str, bool]]:
    entries = sorted(_entries(directory), key=lambda entry: entry[1])
    return [(name, _TYPES.get(kind, "?"), _agrees(directory, name, ino)) for (ino, kind), name in entries]


def _agrees(directory: int, name: bytes, ino: int) -> bool:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino == ino


def _entries(directory: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    while entries := list(_getdents(directory, 1 << 15)):
        yield from entries


def _getdents(directory: int, size: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """getdents64(2) without `.` and `..`: inode number and type, and the name; nothing at the end.

    Where a buffer of `size` bytes holds no entry, a larger one is used.
    """
    found: list[tuple[tuple[int, int], bytes]] = []
    while not found:
        buffer = ctypes.create_string_buffer(size)
        length = _libc.getdents64(directory, buffer, size)
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
def _directory(path: bytes, above: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def digest(data: bytes) -> bytes | str:
    """The bytes themselves where they are few."""
    if len(data) <= _SHORT:
        return data
    return f"{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"
