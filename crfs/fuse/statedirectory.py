"""`.crfs/` at a mount's root: what can be told of the mount, as JSON. Looked up by name, and never listed.

Whatever the tree itself has by that name goes before. Each time a file is looked up it is another one, with what
is to be told at that moment: the kernel may keep its bytes, and forgets the file soon after it is closed.
"""

import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import llfuse

from crfs._native.listing import Listing
from crfs.fuse.handler import handler
from crfs.fuse.reply import BLOCK, FOREVER_SECONDS

NAME = b".crfs"
# above the inodes of every tree, and below the handles that are given out in its name (`_native.answers`)
FIRST = 1 << 62
_LAST = (1 << 63) - 1
# what is refused in it; each begins with the inode of a file or directory
_CHANGES = {
    "setattr",
    "setxattr",
    "removexattr",
    "create",
    "mknod",
    "mkdir",
    "symlink",
    "unlink",
    "rmdir",
    "link",
}


class StateDirectory(llfuse.Operations):
    """`operations`, with that directory; `tell` gives the files in it by name. Called as ReadOnly is."""

    def __init__(self, operations: llfuse.Operations, tell: Callable[[], Mapping[bytes, bytes]]) -> None:
        super().__init__()
        self._inner = operations
        self._tell = tell
        self._numbers = itertools.count(FIRST + 1)
        self._files: dict[int, tuple[bytes, int]] = {}
        self._dirent = llfuse.EntryAttributes()
        for name in dir(llfuse.Operations):
            if not name.startswith("_") and name not in StateDirectory.__dict__:
                # asked directly: most requests are none of ours
                asked = getattr(operations, name)
                setattr(self, name, _refusing(asked) if name in _CHANGES else asked)

    @handler
    def lookup(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        if parent >= FIRST:
            return self._look_inside(name)
        if name != NAME or parent != llfuse.ROOT_INODE:
            return self._inner.lookup(parent, name, ctx)
        try:
            found = self._inner.lookup(parent, name, ctx)
        except llfuse.FUSEError as error:
            if error.errno != errno.ENOENT:
                raise
            return self._entry(FIRST)
        return found if found.st_ino else self._entry(FIRST)

    def _look_inside(self, name: bytes) -> llfuse.EntryAttributes:
        content = self._tell().get(name)
        if name in (b".", b".."):
            return self._entry(FIRST)
        if content is None:
            raise llfuse.FUSEError(errno.ENOENT)
        inode = next(self._numbers)
        self._files[inode] = content, time.time_ns()
        return self._entry(inode)

    def _entry(self, inode: int) -> llfuse.EntryAttributes:
        content, made_ns = self._files.get(inode, (b"", time.time_ns()))
        entry = llfuse.EntryAttributes()
        entry.st_ino = inode
        entry.generation = 0
        # the name leads to another file the next time
        entry.entry_timeout = 0
        entry.attr_timeout = 0 if inode == FIRST else FOREVER_SECONDS
        entry.st_mode = stat.S_IFDIR | 0o555 if inode == FIRST else stat.S_IFREG | 0o444
        entry.st_nlink = 2 if inode == FIRST else 1
        entry.st_size = len(content)
        entry.st_blksize = BLOCK
        entry.st_blocks = (len(content) + 511) // 512
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = made_ns
        return entry

    @handler
    def getattr(self, inode: int, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        return self._entry(inode) if inode >= FIRST else self._inner.getattr(inode, ctx)

    @handler
    def open(self, inode: int, flags: int, ctx: llfuse.RequestContext) -> int:
        if inode < FIRST:
            return int(self._inner.open(inode, flags, ctx))
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise llfuse.FUSEError(errno.EROFS)
        # a handle as well: no tree has such
        return inode

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        if not FIRST <= fh <= _LAST:
            return bytes(self._inner.read(fh, off, size))
        return self._files[fh][0][off : off + size]

    @handler
    def release(self, fh: int) -> None:
        if not FIRST <= fh <= _LAST:
            self._inner.release(fh)

    @handler
    def opendir(self, inode: int, ctx: llfuse.RequestContext) -> int:
        return inode if inode >= FIRST else int(self._inner.opendir(inode, ctx))

    @property
    def opens_directories(self) -> bool:
        """See `session.Directories`."""
        return bool(self._inner.opens_directories)

    def read_directory(self, inode: int, fh: int, off: int, size: int, plus: bool) -> bytes:
        """See `session.Directories`."""
        if inode < FIRST:
            return bytes(self._inner.read_directory(inode, fh, off, size, plus))
        listing = Listing(size, plus)
        for name, dirent, next_off in self._dirents(off):
            if not listing.has_room(name):
                break
            listing.add(name, next_off, dirent.st_ino, dirent.st_mode)
        return listing.taken_bytes()

    @handler
    def readdir(self, fh: int, off: int) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        if fh >= FIRST:
            return self._dirents(off)
        found: Iterator[tuple[bytes, llfuse.EntryAttributes, int]] = self._inner.readdir(fh, off)
        return found

    def _dirents(self, off: int) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        dirent = self._dirent
        names = [b".", b"..", *sorted(self._tell())]
        for at, name in enumerate(names[off:], off):
            dirent.st_ino = FIRST
            dirent.st_mode = stat.S_IFDIR if at < 2 else stat.S_IFREG
            yield name, dirent, at + 1

    @handler
    def releasedir(self, fh: int) -> None:
        if fh < FIRST:
            self._inner.releasedir(fh)

    @handler
    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for inode, _ in inode_list:
            self._files.pop(inode, None)
        self._inner.forget([item for item in inode_list if item[0] < FIRST])

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext | None = None) -> bytes:
        if inode >= FIRST:
            raise llfuse.FUSEError(errno.ENODATA)
        return bytes(self._inner.getxattr(inode, name, ctx))

    @handler
    def listxattr(self, inode: int, ctx: llfuse.RequestContext) -> list[bytes]:
        return [] if inode >= FIRST else list(self._inner.listxattr(inode, ctx))


def _refusing(change: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(inode: int, *rest: Any) -> Any:
        if inode >= FIRST:
            raise llfuse.FUSEError(errno.EROFS)
        return change(inode, *rest)

    return refusing
