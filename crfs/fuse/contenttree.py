"""The bytes of a merged tree's files, each under the name of its content (`_native.contents`): no tree, no names.

The kernel has those from elsewhere, and asks for nothing but a content by its name, and what is in it. Called as
ReadOnly is.
"""

import errno
import stat
from collections.abc import Callable

import llfuse

from crfs._native.contents import Contents
from crfs._native.index import Tree
from crfs.fuse import reply
from crfs.fuse.handler import handler
from crfs.fuse.readonly import Reader, ReadOnly

# the root, and the directories 00 to ff; then the files, each by its number in the tree
_FIRST_DIR = llfuse.ROOT_INODE + 1
_DIRS = llfuse.ROOT_INODE + 256


class ContentTree(ReadOnly):
    """The handlers. Files with the same content are one.

    `read_out` is told of each that somebody has read to its end; it must not wait.
    """

    def __init__(
        self, tree: Tree, contents: Contents, reader: Reader, read_out: Callable[[int], None]
    ) -> None:
        super().__init__(tree, reader)
        self._contents = contents
        self._read_out = read_out

    def _entry(self, inode: int) -> llfuse.EntryAttributes:
        made = reply.entry(self._tree, max(inode - _DIRS, llfuse.ROOT_INODE))
        made.st_ino = inode
        made.st_mode = stat.S_IFDIR | 0o500 if inode <= _DIRS else stat.S_IFREG | 0o400
        made.st_nlink = 1
        made.st_uid = made.st_gid = 0
        return made

    @handler
    def lookup(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        if parent == llfuse.ROOT_INODE:
            return self._entry(_FIRST_DIR + _two_digits(name))
        inode = self._contents.find(b"%02x/%b" % (parent - _FIRST_DIR, name)) if parent <= _DIRS else 0
        if not inode:
            raise llfuse.FUSEError(errno.ENOENT)
        return self._entry(_DIRS + inode)

    @handler
    def opendir(self, inode: int, ctx: llfuse.RequestContext) -> int:
        # overlayfs finds what it has been given the names of
        raise llfuse.FUSEError(errno.EACCES)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        inode = fh - _DIRS
        data = super().read(inode, off, size)
        if off + size >= self._tree.attributes(inode).size:
            self._read_out(inode)
        return data

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext | None = None) -> bytes:
        raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def listxattr(self, inode: int, ctx: llfuse.RequestContext) -> list[bytes]:
        raise llfuse.FUSEError(errno.ENOSYS)


def _two_digits(name: bytes) -> int:
    """A directory's number; ENOENT for any other name."""
    if len(name) == 2 and not name.strip(b"0123456789abcdef"):
        return int(name, 16)
    raise llfuse.FUSEError(errno.ENOENT)
