"""A merged tree that the kernel's overlayfs reads: what it would take for marks of its own is not in it."""

import errno

import llfuse

from crfs.fuse.handler import handler
from crfs.fuse.readonly import ReadOnly
from crfs.overlay.marks import is_private


class LowerTree(ReadOnly):
    """The handlers."""

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext | None = None) -> bytes:
        if self._has_xattrs and is_private(name):
            raise llfuse.FUSEError(errno.ENODATA)
        return super().getxattr(inode, name, ctx)

    @handler
    def listxattr(self, inode: int, ctx: llfuse.RequestContext) -> list[bytes]:
        return [name for name in super().listxattr(inode, ctx) if not is_private(name)]
