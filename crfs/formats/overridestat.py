"""Owner, mode and type of a file that its directory can't hold, kept in an xattr: `xattr_permissions`. Pure.

The value is `UID:GID:MODE[:TYPE]`, MODE octal. fuse-overlayfs writes no TYPE, but a MODE as stat(2) has it;
containers/storage writes `file`, `dir`, `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR` or
`char-MAJOR-MINOR`, which we do as well. Either reads the other's.
"""

import enum
import os
import stat

from msgspec import Struct

from crfs.errors import FormatError

_PRIVILEGED = b"security.fuseoverlayfs.override_stat"
_CONTAINERS = b"user.containers.override_stat"
_UNPRIVILEGED = b"user.fuseoverlayfs.override_stat"

_KINDS = {
    b"file": stat.S_IFREG,
    b"dir": stat.S_IFDIR,
    b"symlink": stat.S_IFLNK,
    b"pipe": stat.S_IFIFO,
    b"socket": stat.S_IFSOCK,
    b"block": stat.S_IFBLK,
    b"char": stat.S_IFCHR,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)
_ID_MAX = 2**32 - 1


class XattrPermissions(enum.IntEnum):
    """Where owner and mode of what is created are kept: in the inode, or in one of two xattrs."""

    OFF = 0
    PRIVILEGED = 1
    USER = 2


# what is written
XATTR = {XattrPermissions.PRIVILEGED: _PRIVILEGED, XattrPermissions.USER: _CONTAINERS}
# a layer uses the first that its root has; fuse-overlayfs 1 writes the last one for XattrPermissions.USER
XATTRS = (_PRIVILEGED, _CONTAINERS, _UNPRIVILEGED)


class OverrideStat(Struct, frozen=True):
    """What stat(2) shall say. `mode` has no type where none was kept: it is that of the file on disk."""

    uid: int
    gid: int
    mode: int
    rdev: int = 0


def parse_override(value: bytes) -> OverrideStat:
    """An xattr's value; FormatError where it is malformed."""
    fields = value.split(b":")
    if len(fields) < 3:
        raise FormatError(f"{value!r} is not UID:GID:MODE")
    uid, gid, mode = _parse_id(fields[0], value), _parse_id(fields[1], value), _parse_mode(fields[2], value)
    if len(fields) == 3:
        return OverrideStat(uid, gid, mode)
    kind, rdev = _parse_kind(fields[3], value)
    return OverrideStat(uid, gid, stat.S_IMODE(mode) | kind, rdev)


def format_override(info: OverrideStat) -> bytes:
    """The value of an xattr."""
    text = b"%d:%d:%04o" % (info.uid, info.gid, stat.S_IMODE(info.mode))
    kind = stat.S_IFMT(info.mode)
    if not kind:
        return text
    if kind in _DEVICES:
        return b"%s:%s-%d-%d" % (text, _NAMES[kind], os.major(info.rdev), os.minor(info.rdev))
    return b"%s:%s" % (text, _NAMES[kind])


def _parse_id(field: bytes, value: bytes) -> int:
    # fuse-overlayfs prints them signed
    digits = field.removeprefix(b"-")
    number = int(field) if digits.isdigit() and len(digits) <= 10 else _ID_MAX + 1
    if not -(2**31) <= number <= _ID_MAX:
        raise FormatError(f"{value!r}: {field!r} is not a user or group id")
    return number & _ID_MAX


def _parse_mode(field: bytes, value: bytes) -> int:
    if field and not field.strip(b"01234567") and len(field) <= 8:
        mode = int(field, 8)
        if mode <= 0o177777 and stat.S_IFMT(mode) in (0, *_NAMES):
            return mode
    raise FormatError(f"{value!r}: {field!r} is not a mode")


def _parse_kind(field: bytes, value: bytes) -> tuple[int, int]:
    name, *numbers = field.split(b"-")
    kind = _KINDS.get(name)
    if kind is None:
        raise FormatError(f"{value!r}: {field!r} is not a type of file")
    if kind not in _DEVICES:
        return kind, 0
    if len(numbers) < 2 or not all(number.isdigit() and len(number) <= 7 for number in numbers[:2]):
        raise FormatError(f"{value!r}: {field!r} has no device numbers")
    return kind, os.makedev(int(numbers[0]), int(numbers[1]))
