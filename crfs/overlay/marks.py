"""How an overlay marks what is on disk: whiteouts, opaque directories, redirects. Pure, but for reading marks.

Written are the marks that the kernel's overlayfs reads (Documentation/filesystems/overlayfs.rst), under
`trusted.overlay.` or, without privileges, `user.overlay.`; those of fuse-overlayfs and of aufs are read as well.
"""

import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from crfs._native.status import Status
from crfs.formats.overridestat import XATTRS

TRUSTED = b"trusted.overlay."
USER = b"user.overlay."
_FUSE_OVERLAYFS = (b"user.fuseoverlayfs.", b"security.fuseoverlayfs.", b"trusted.fuseoverlayfs.")
_PREFIXES = (TRUSTED, USER, *_FUSE_OVERLAYFS)
WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
# our own: the number of what was copied up. No part of the kernel's marks, but hidden and left alone like them
NUMBER = b"crfs.number"
# and beside `impure`, which the kernel takes from a directory where it sees no marks of its own
IMPURE = b"crfs.impure"
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


class FileMarks(Struct, frozen=True):
    """What a file of an upper directory says of itself: the number that it keeps, and where its bytes are.

    `metacopy`: in a lower tree, under the same name or, if there is a `redirect`, at that path.
    """

    number: bytes | None = None
    metacopy: bool = False
    redirect: bytes | None = None


PLAIN = DirMarks()
PLAIN_FILE = FileMarks()


def is_whiteout(info: os.stat_result | Status) -> bool:
    """Whether an entry is a whiteout: a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_private(name: bytes) -> bool:
    """Whether an extended attribute is an overlay's own, and so never shown."""
    return name.startswith(_PREFIXES) or name in XATTRS


def is_acl(name: bytes) -> bool:
    """Whether an extended attribute is an ACL, which would be stored and not obeyed."""
    return name in _ACLS


def read_marks(path: bytes | int) -> DirMarks:
    """The marks of the directory at a path (not followed) or file descriptor."""
    opaque, redirect, impure = False, None, False
    for name, mark in _marks(path):
        if mark == b"opaque":
            # b"x" says that there are whiteouts which are files
            opaque = opaque or os.getxattr(path, name) == b"y"
        elif mark == b"redirect":
            redirect = os.getxattr(path, name)
        elif mark in (b"impure", IMPURE):
            impure = True
    return DirMarks(opaque, redirect, impure) if opaque or redirect or impure else PLAIN


def read_file_marks(path: bytes) -> FileMarks:
    """The marks of what is no directory."""
    found: dict[bytes, bytes] = {}
    for name, mark in _marks(path):
        if mark in (NUMBER, b"metacopy", b"redirect"):
            found[mark] = os.getxattr(path, name, follow_symlinks=False)
    if not found:
        return PLAIN_FILE
    return FileMarks(found.get(NUMBER), b"metacopy" in found, found.get(b"redirect"))


def is_file_whiteout(path: bytes) -> bool:
    """Whether an empty regular file is a whiteout: so they are kept where an overlay is a layer of another one."""
    return any(mark == b"whiteout" for _, mark in _marks(path))


def _marks(path: bytes | int) -> Iterator[tuple[bytes, bytes]]:
    """(attribute, mark) of the overlay's own attributes. Those of an overlay in an overlay are named otherwise."""
    try:
        names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=False)
    except OSError:
        return
    for text in names:
        name = os.fsencode(text)
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                yield name, name[len(prefix) :]


def may_set_trusted(fd: int) -> bool:
    """Whether `trusted.` attributes are ours to set: root's of a user namespace are not."""
    try:
        os.setxattr(fd, TRUSTED + b"opaque", b"n")
        os.removexattr(fd, TRUSTED + b"opaque")
    except PermissionError:
        return False
    except OSError:
        return True
    return True
