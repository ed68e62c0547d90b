"""File-system calls as values: each is run at a place, and answers a value that can be compared with another's.

    run_step(Mkdir(b"dir/new", 0o755, user=1000), place)  ->  "ok", a value, or Failed("EACCES")

A place is a process's view of a tree, whose root is the process's own root: chroot(2) into a mount first, or a
symlink leads out of it. The repr of a step is Python that makes it. Used by one thread, as root: `user` is
whose rights a step has. Nothing here compares, mounts or forks.
"""

from tests.support.fsops.attributes import (
    Chmod,
    Chown,
    GetXattr,
    ListXattr,
    RemoveXattr,
    SetXattr,
    Truncate,
    Utime,
)
from tests.support.fsops.calls import Time, digest
from tests.support.fsops.directories import ListDirectory, ReadWhile
from tests.support.fsops.handles import (
    STALE,
    Close,
    HandleChmod,
    HandleChown,
    HandleList,
    HandleSetXattr,
    HandleStat,
    HandleSync,
    HandleTruncate,
    HandleUtime,
    HandleXattrs,
    MapRead,
    MapWrite,
    Open,
    Read,
    Seek,
    Within,
    Write,
)
from tests.support.fsops.looking import Access, Inodes, Look, Readlink, Stat, Statvfs, Walk
from tests.support.fsops.names import Link, Mkdir, Mknod, RemoveTree, Rename, Rmdir, Symlink, Unlink
from tests.support.fsops.step import FLAGS, GROUPS, Failed, Place, Step, run_step

__all__ = [
    "FLAGS",
    "GROUPS",
    "STALE",
    "Access",
    "Chmod",
    "Chown",
    "Close",
    "Failed",
    "GetXattr",
    "HandleChmod",
    "HandleChown",
    "HandleList",
    "HandleSetXattr",
    "HandleStat",
    "HandleSync",
    "HandleTruncate",
    "HandleUtime",
    "HandleXattrs",
    "Inodes",
    "Link",
    "ListDirectory",
    "ListXattr",
    "Look",
    "MapRead",
    "MapWrite",
    "Mkdir",
    "Mknod",
    "Open",
    "Place",
    "Read",
    "ReadWhile",
    "Readlink",
    "RemoveTree",
    "RemoveXattr",
    "Rename",
    "Rmdir",
    "Seek",
    "SetXattr",
    "Stat",
    "Statvfs",
    "Step",
    "Symlink",
    "Time",
    "Truncate",
    "Unlink",
    "Utime",
    "Walk",
    "Within",
    "Write",
    "digest",
    "run_step",
]
