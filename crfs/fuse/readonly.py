"""A merged tree as a read-only file system: llfuse's requests in, answers out of the index and the reader.

Called by llfuse's workers, each with llfuse's lock held; the lock is dropped around what may wait.
"""

import errno
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import llfuse

from crfs._native.index import Tree
from crfs._native.listing import Listing
from crfs._native.turns import hand_over, names_inodes, requester
from crfs.fuse import reply
from crfs.fuse.handler import handler
from crfs.fuse.requester import has_left, listable

# a reply to readdir holds 4 KiB, and an entry takes 32 bytes at the least
_ENTRIES_MAX = 128
# in an answer of our own: without and with what a lookup would say
_ENTRY_MIN = 32
_ENTRY_PLUS_MIN = 160
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_DIR = 0o040000
# since 5.1 the kernel does without opendir
_UNOPENED = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (5, 1)


class Reader(Protocol):
    """Where files' bytes come from (crfs.image.reader)."""

    def find_cached(self, inode: int, off: int, size: int) -> bytes | None: ...

    def read(self, inode: int, off: int, size: int, given_up: Callable[[], bool]) -> bytes: ...


class ReadOnly(llfuse.Operations):
    """The handlers. Inodes are the tree's own numbers, and so are handles.

    Where that is possible, the kernel is told once that nothing needs to be opened: it then asks for no open and no
    release, and keeps what it has read of directories.
    """

    opens_directories = False

    def __init__(self, tree: Tree, reader: Reader) -> None:
        super().__init__()
        self._tree = tree
        self._reader = reader
        self._has_xattrs = tree.has_xattrs
        self._no_entry = reply.no_entry()
        # filled anew for every name: llfuse copies it before it asks for the next one
        self._dirent = llfuse.EntryAttributes()

    def _entry(self, inode: int) -> llfuse.EntryAttributes:
        # a microsecond; kept, those of a whole walk would be the most that a daemon holds
        return reply.entry(self._tree, inode)

    @handler
    def lookup(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        if name == b"." or name == b"..":
            return self._entry(parent if name == b"." else self._tree.parent(parent))
        inode = self._tree.find(parent, name)
        if not inode and len(name) > reply.NAME_MAX:
            raise llfuse.FUSEError(errno.ENAMETOOLONG)
        return self._entry(inode) if inode else self._no_entry

    @handler
    def getattr(self, inode: int, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        return self._entry(inode)

    @handler
    def readlink(self, inode: int, ctx: llfuse.RequestContext) -> bytes:
        return self._tree.readlink(inode)

    @handler
    def opendir(self, inode: int, ctx: llfuse.RequestContext) -> int:
        return unopened(inode)

    def read_directory(self, inode: int, fh: int, off: int, size: int, plus: bool) -> bytes:
        """See `session.Directories`."""
        listing = Listing(size, plus)
        most = size // (_ENTRY_PLUS_MIN if plus else _ENTRY_MIN)
        for at, (name, number, mode) in enumerate(self._names(inode, off, most), start=off):
            if not listing.has_room(name):
                break
            if plus and at > 1:
                self._add(listing, name, at + 1, number)
            else:
                listing.add(name, at + 1, number, mode)
        return listing.taken_bytes()

    def _add(self, listing: Listing, name: bytes, off: int, inode: int) -> None:
        mode, nlink, uid, gid, rdev, size, mtime_ns = self._tree.attributes(inode)
        forever, times, blocks = reply.FOREVER_SECONDS, (mtime_ns,) * 3, (size + 511) // 512
        listing.add_known(
            name, off, inode, forever, forever, mode, nlink, uid, gid, rdev, size, blocks, *times
        )

    def _names(self, inode: int, off: int, count: int) -> list[tuple[bytes, int, int]]:
        names: list[tuple[bytes, int, int]] = []
        if off < 2:
            names = [(b".", inode, _DIR), (b"..", self._tree.parent(inode), _DIR)][off:]
        return names + self._tree.entries(inode, max(off - 2, 0), count)

    @handler
    def readdir(self, fh: int, off: int) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        return self._dirents(self._names(fh, off, _ENTRIES_MAX), off)

    def _dirents(
        self, names: Sequence[tuple[bytes, int, int]], off: int
    ) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        dirent = self._dirent
        for name, inode, mode in names:
            off += 1
            dirent.st_ino = inode
            dirent.st_mode = mode
            yield name, dirent, off

    @handler
    def open(self, inode: int, flags: int, ctx: llfuse.RequestContext) -> int:
        if flags & _WRITES:
            raise llfuse.FUSEError(errno.EROFS)
        return unopened(inode)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        data = self._reader.find_cached(fh, off, size)
        if data is None:
            hand_over()
            with llfuse.lock_released:
                data = self._reader.read(fh, off, size, functools.partial(has_left, requester()))
        return data

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext | None = None) -> bytes:
        if not self._has_xattrs:
            # once, and the kernel asks for none of any file again: ls -l wants two of each
            raise llfuse.FUSEError(errno.ENOSYS)
        try:
            return self._tree.xattrs(inode)[name]
        except KeyError as error:
            raise llfuse.FUSEError(errno.ENODATA) from error

    @handler
    def listxattr(self, inode: int, ctx: llfuse.RequestContext) -> list[bytes]:
        return listable(self._tree.xattrs(inode), ctx.uid)

    @handler
    def statfs(self, ctx: llfuse.RequestContext) -> llfuse.StatvfsData:
        return reply.statfs(self._tree)

    @handler
    def access(self, inode: int, mode: int, ctx: llfuse.RequestContext) -> bool:
        # the kernel checks permissions by itself (default_permissions)
        raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def flush(self, fh: int) -> None:
        raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def release(self, fh: int) -> None:
        return

    @handler
    def releasedir(self, fh: int) -> None:
        return

    @handler
    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        return


def unopened(inode: int) -> int:
    """The handle of what is opened, if it has to be."""
    if _UNOPENED and names_inodes():
        raise llfuse.FUSEError(errno.ENOSYS)
    return inode
