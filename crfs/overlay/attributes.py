"""What stat shows of an object, whatever it is made of. Pure."""

import os

from msgspec import Struct

from crfs._native.status import Status


class Attributes(Struct, frozen=True):
    """What stat shows, with times in ns."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def attributes_of(info: os.stat_result | Status) -> Attributes:
    """The same, from a stat of a real file."""
    return Attributes(
        info.st_mode,
        info.st_nlink,
        info.st_uid,
        info.st_gid,
        info.st_rdev,
        info.st_size,
        info.st_blocks,
        info.st_atime_ns,
        info.st_mtime_ns,
        info.st_ctime_ns,
    )
