"""How an overlay marks what is on disk: whiteouts, opaque directories, redirects. Pure, but for reading marks.

Written are the marks that the kernel's overlayfs reads (Documentation/filesystems/overlayfs.rst), under
`trusted.overlay.` or, without privileges, `user.overlay.`; those of fuse-overlayfs and of aufs are read as well.
"""

import os
import stat

from msgspec import Struct

from crfs.formats.overridestat import XATTRS

TRUSTED = b"trusted.overlay."
USER = b"user.overlay."
_FUSE_OVERLAYFS = (b"user.fuseoverlayfs.", b"security.fuseoverlayfs.", b"trusted.fuseoverlayfs.")
WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
# our own: the number of what was copied up. No part of the kernel's marks, but hidden and left alone like them
NUMBER = b"crfs.number"
# the kinds of extended attributes that there are (xattr(7))
NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


class DirMarks(Struct, frozen=True):
    """What a directory says of the layers below: nothing of them shows, or they have it at another path.

    `impure`: nothing of them shows, but it holds what was moved or copied up from them.
    """

    opaque: bool = False
    redirect: bytes | None = None
    impure: bool = False


PLAIN = DirMarks()


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an entry is a whiteout: a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_private(name: bytes) -> bool:
    """Whether an extended attribute is an overlay's own, and so never shown."""
    return name.startswith((TRUSTED, USER, *_FUSE_OVERLAYFS)) or name in XATTRS


def is_acl(name: bytes) -> bool:
    """Whether an extended attribute is an ACL, which would be stored and not obeyed."""
    return name in _ACLS


def read_marks(path: bytes | int) -> DirMarks:
    """The marks of the directory at a path (not followed) or file descriptor."""
    try:
        names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=False)
    except OSError:
        return PLAIN
    opaque, redirect, impure = False, None, False
    for text in names:
        name = os.fsencode(text)
        if not is_private(name):
            continue
        if name.endswith(b".opaque"):
            opaque = opaque or os.getxattr(path, name) == b"y"
        elif name.endswith(b".redirect"):
            redirect = os.getxattr(path, name)
        elif name.endswith(b".impure"):
            impure = True
    return DirMarks(opaque, redirect, impure) if opaque or redirect or impure else PLAIN
