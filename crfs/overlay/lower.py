"""Lower trees: read-only, each found by handles that only it understands. Any thread.

An image is one lower tree, already merged; a plain directory is another, which may have been an upper directory
before and so may have whiteouts and marks of its own.
"""

import errno
import os
import stat
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, ClassVar, Protocol

from msgspec import Struct

from crfs._native.index import Tree
from crfs._native.lowernames import LowerNames
from crfs._native.status import Status, find_status, is_bare_directory
from crfs.overlay.attributes import Attributes, attributes_of
from crfs.overlay.marks import (
    OPAQUE_NAME,
    PLAIN,
    PLAIN_FILE,
    WHITEOUT_PREFIX,
    DirMarks,
    FileMarks,
    is_file_whiteout,
    is_whiteout,
    read_file_marks,
    read_marks,
)
from crfs.overlay.moves import Move, find_moves, iter_directories, join
from crfs.overlay.ownership import InInodes, find_recorded
from crfs.overlay.reach import REACH, Reach

# and what is before it
_NAME_SIZE = 256
GivenUp = Callable[[], bool]


class Found(Struct, frozen=True):
    """A name in a lower directory, of a file that has `nlink` of them. `whiteout` hides what is below.

    `key` is the same for all names of one file, and for nothing else: its number on its device (64 bits), and which
    device of the tree's that is, from 0 on. `shown`: its attributes, where they came along.
    """

    handle: Any
    mode: int
    key: int
    whiteout: bool = False
    nlink: int = 1
    shown: Attributes | None = None


class OpenLower(Protocol):
    """An open regular file of a lower tree.

    `data_at`: the first span of a file of `size` bytes, from `off` on, that may hold anything but zeros.
    """

    def read(self, off: int, size: int, given_up: GivenUp) -> bytes: ...

    def data_at(self, off: int, size: int) -> tuple[int, int]: ...

    def close(self) -> None: ...


class Lower(Protocol):
    """One lower tree. A handle names an object; OSError where it can't be read.

    `is_local`: its bytes are on this machine. `entries`: of a directory, but for the names that are in `known`.
    """

    is_local: ClassVar[bool]

    def root(self) -> Any: ...

    def find(self, directory: Any, name: bytes) -> Found | None: ...

    def marks(self, directory: Any) -> DirMarks: ...

    def file_marks(self, handle: Any) -> FileMarks: ...

    def entries(self, directory: Any, known: Container[bytes]) -> Iterator[tuple[bytes, Found]]: ...

    def attributes(self, handle: Any) -> Attributes: ...

    def readlink(self, handle: Any) -> bytes: ...

    def xattrs(self, handle: Any) -> Mapping[bytes, bytes]: ...

    def identity(self) -> bytes: ...

    def names(self, key: int) -> list[bytes]: ...

    def moves(self) -> list[Move]: ...

    def open(self, handle: Any) -> OpenLower: ...


class ImageReader(Protocol):
    """Where an image's bytes come from (crfs.image.reader)."""

    def find_cached(self, inode: int, off: int, size: int) -> bytes | None: ...

    def read(self, inode: int, off: int, size: int, given_up: GivenUp) -> bytes: ...


class _OpenInode(Struct, frozen=True):
    reader: ImageReader
    inode: int

    def read(self, off: int, size: int, given_up: GivenUp) -> bytes:
        return self.reader.read(self.inode, off, size, given_up)

    def data_at(self, off: int, size: int) -> tuple[int, int]:
        return off, size

    def close(self) -> None:
        return


class ImageLower:
    """An image's merged tree; a handle is its inode."""

    is_local: ClassVar[bool] = False

    def __init__(self, tree: Tree, reader: ImageReader, root: int = 1) -> None:
        self.tree = tree
        self.reader = reader
        self._root = root

    def root(self) -> int:
        """The directory that is shown."""
        return self._root

    def find(self, directory: int, name: bytes) -> Found | None:
        """What a directory holds under a name."""
        inode = self.tree.find(directory, name)
        if not inode:
            return None
        found = self.tree.attributes(inode)
        return Found(inode, found.mode, inode, nlink=found.nlink)

    def marks(self, directory: int) -> DirMarks:
        """None: an image is merged already."""
        return PLAIN

    def file_marks(self, handle: int) -> FileMarks:
        """None: an image's files have their bytes."""
        return PLAIN_FILE

    def entries(self, directory: int, known: Container[bytes]) -> Iterator[tuple[bytes, Found]]:
        """The names of a directory."""
        for name, inode, mode in self.tree.entries(directory, 0, 0xFFFFFFFF):
            if name not in known:
                shown = self.attributes(inode)
                yield name, Found(inode, mode, inode, nlink=shown.nlink, shown=shown)

    def attributes(self, handle: int) -> Attributes:
        """What stat shows."""
        mode, nlink, uid, gid, rdev, size, mtime_ns = self.tree.attributes(handle)
        return Attributes(
            mode, nlink, uid, gid, rdev, size, (size + 511) // 512, mtime_ns, mtime_ns, mtime_ns
        )

    def readlink(self, handle: int) -> bytes:
        """A symbolic link's target."""
        return self.tree.readlink(handle)

    def xattrs(self, handle: int) -> Mapping[bytes, bytes]:
        """All extended attributes."""
        return self.tree.xattrs(handle)

    def identity(self) -> bytes:
        """What an image's numbers depend on."""
        tree = self.tree
        return b"image:%d:%d:%d:%d" % (self._root, tree.inodes, tree.chunks, tree.file_bytes)

    def names(self, key: int) -> list[bytes]:
        """All paths of a file below the directory that is shown."""
        paths = self.tree.paths(key)
        if self._root == 1:
            return paths
        above = self.tree.path(self._root) + b"/"
        return [path[len(above) :] for path in paths if path.startswith(above)]

    def moves(self) -> list[Move]:
        """None: an image is merged already."""
        return []

    def open(self, handle: int) -> OpenLower:
        """A file to read from."""
        return _OpenInode(self.reader, handle)


class OpenFile(Struct, frozen=True):
    """A file of this machine. `plain`: it has on disk what it shows."""

    fd: int
    plain: bool = False

    def read(self, off: int, size: int, given_up: GivenUp) -> bytes:
        return os.pread(self.fd, size, off)

    def data_at(self, off: int, size: int) -> tuple[int, int]:
        try:
            start = os.lseek(self.fd, off, os.SEEK_DATA)
            return start, min(os.lseek(self.fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            # no data any more; file systems that don't know holes have but one span
            return (size, size) if error.errno == errno.ENXIO else (off, size)

    def close(self) -> None:
        os.close(self.fd)


class DirectoryLower:
    """A directory on disk; a handle is the path below it, b"" for itself. Use open_directory()."""

    is_local: ClassVar[bool] = True

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._far = Reach(fd)
        self._ownership = find_recorded(fd) or InInodes()
        self._linked: dict[int, list[bytes]] | None = None
        self._moves: list[Move] | None = None
        self._device = os.fstat(fd).st_dev
        self._devices = {self._device: 0}

    def close(self) -> None:
        """Let go of the directory."""
        self._far.close()
        os.close(self._fd)

    @property
    def is_recorded(self) -> bool:
        """Whether owners and modes are kept in extended attributes."""
        return not self._ownership.types_on_disk

    def root(self) -> bytes:
        """The directory itself."""
        return b""

    def reach(self, handle: bytes) -> tuple[int, bytes]:
        """A descriptor, and a path from there that the kernel takes."""
        return (self._fd, handle) if len(handle) < REACH else self._far.find(handle)

    def _at(self, handle: bytes) -> bytes:
        """A path for the calls that know no dir_fd."""
        return b"/proc/self/fd/%d/%s" % self.reach(handle)

    def _stat(self, handle: bytes) -> os.stat_result:
        fd, path = self.reach(handle)
        return os.stat(path or b".", dir_fd=fd, follow_symlinks=False)

    def find(self, directory: bytes, name: bytes) -> Found | None:
        """What a directory holds under a name; a whiteout is found as such."""
        path = join(directory, name)
        info = find_status(*self.reach(path))
        if info is None:
            return self._find_aufs(directory, name)
        if not self.is_recorded:
            return self._found(path, info, info.st_mode, attributes_of(info))
        mode = info.st_mode
        if not is_whiteout(info):
            mode = self._ownership.attributes(self._at(path), info).mode
        return self._found(path, info, mode)

    def _found(
        self, path: bytes, info: os.stat_result | Status, mode: int, shown: Attributes | None = None
    ) -> Found:
        whiteout = is_whiteout(info) or (
            info.st_size == 0 and stat.S_ISREG(info.st_mode) and is_file_whiteout(self._at(path))
        )
        return Found(path, mode, self._key(info), whiteout, info.st_nlink, shown)

    def _key(self, info: os.stat_result | Status) -> int:
        return self._devices.setdefault(info.st_dev, len(self._devices)) << 64 | info.st_ino

    def _find_aufs(self, directory: bytes, name: bytes) -> Found | None:
        """A whiteout that is a file `.wh.NAME`, where device nodes could not be made."""
        path = join(directory, WHITEOUT_PREFIX + name)
        try:
            if find_status(*self.reach(path)) is None:
                return None
        except OSError:
            # too long for a name
            return None
        return Found(path, stat.S_IFCHR, 0, whiteout=True)

    def marks(self, directory: bytes) -> DirMarks:
        """Opaque and redirect."""
        if is_bare_directory(*self.reach(directory), OPAQUE_NAME):
            return PLAIN
        marks = read_marks(self._at(directory) + b"/.")
        if not marks.opaque:
            try:
                self._stat(join(directory, OPAQUE_NAME))
            except OSError:
                return marks
            return DirMarks(True, marks.redirect)
        return marks

    def file_marks(self, handle: bytes) -> FileMarks:
        """Where a file's bytes are, if it was a file of an upper directory."""
        return read_file_marks(self._at(handle))

    def entries(self, directory: bytes, known: Container[bytes]) -> Iterator[tuple[bytes, Found]]:
        """The names of a directory, whiteouts included; mode 0 where the type has to be looked up."""
        above, below = self.reach(directory)
        fd = os.open(below or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        try:
            for text in os.listdir(fd):
                name = os.fsencode(text)
                path = join(directory, name)
                if name == OPAQUE_NAME or name in known:
                    continue
                if name.startswith(WHITEOUT_PREFIX):
                    yield name[len(WHITEOUT_PREFIX) :], Found(path, stat.S_IFCHR, 0, whiteout=True)
                    continue
                info = find_status(fd, name)
                if info is None:
                    continue
                is_typed = not (self.is_recorded and stat.S_ISREG(info.st_mode))
                shown = None if self.is_recorded else attributes_of(info)
                yield name, self._found(path, info, info.st_mode if is_typed else 0, shown)
        finally:
            os.close(fd)

    def read_names(self, directory: bytes, place: int, space: int, mark_end: bytes) -> LowerNames | None:
        """The names of a directory that hides nothing below; see LowerNames. None where it is not for that."""
        if self.is_recorded or len(directory) + _NAME_SIZE >= REACH:
            return None
        return LowerNames(place, self._fd, directory, self._device, space, mark_end)

    def listed(self, directory: bytes, name: bytes, info: Status) -> Found:
        """What read_names() has read of a name."""
        return self._found(join(directory, name), info, info.st_mode, attributes_of(info))

    def attributes(self, handle: bytes) -> Attributes:
        """What stat shows."""
        return self._ownership.attributes(self._at(handle), self._stat(handle))

    def readlink(self, handle: bytes) -> bytes:
        """A symbolic link's target."""
        fd, path = self.reach(handle)
        return os.fsencode(os.readlink(path, dir_fd=fd))

    def xattrs(self, handle: bytes) -> Mapping[bytes, bytes]:
        """All extended attributes, marks included."""
        path = self._at(handle)
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return {}
            raise
        return {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
            for name in names
            if not name.startswith("system.")
        }

    def identity(self) -> bytes:
        """The directory's number: it is the same after a restart."""
        return b"directory:%d" % os.fstat(self._fd).st_ino

    def names(self, key: int) -> list[bytes]:
        """All paths of a file of several names. The whole tree is looked through once, when this is first asked."""
        if self._linked is None:
            linked: dict[int, list[bytes]] = {}
            for path, fd, entries in iter_directories(self._fd):
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        self._note_linked(linked, path, os.fsencode(entry.name), fd)
            self._linked = linked
        return self._linked.get(key, [])

    def _note_linked(self, linked: dict[int, list[bytes]], directory: bytes, name: bytes, fd: int) -> None:
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if info.st_nlink > 1:
            linked.setdefault(self._key(info), []).append(join(directory, name))

    def moves(self) -> list[Move]:
        """Directories that were moved in this tree, which may have been an upper one; looked for once."""
        if self._moves is None:
            self._moves = find_moves(self._fd)
        return self._moves

    def open(self, handle: bytes) -> OpenLower:
        """A file to read from."""
        fd, path = self.reach(handle)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        return OpenFile(os.open(path, flags, dir_fd=fd), not self.is_recorded)


def open_directory(path: bytes) -> DirectoryLower:
    """The directory at `path`; OSError where there is none."""
    return DirectoryLower(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
