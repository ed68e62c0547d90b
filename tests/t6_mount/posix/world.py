"""What each case of the matrix is given: a small directory of every kind of object, and the paths that calls get.

Users 1000 and 1001 and group 2000 are those of `tests.support.fsops.GROUPS`: 1001 is in 2000, 1000 is not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

OLD_NS = 1_000_000_000_123_456_789
LONG = b"n" * 255
TOO_LONG = b"n" * 256
# with the directory of a case before it
_PATH_MAX = 4096
_DEVICES = {stat.S_IFCHR: (1, 3), stat.S_IFBLK: (7, 200)}


@dataclass(frozen=True, slots=True)
class Thing:
    """An object to be made: a symlink or hard link where there is a `target`."""

    mode: int
    owner: tuple[int, int] = (0, 0)
    target: bytes = b""


FILE, DIR, LINK, HARD = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, 0
_MINE, _OTHER, _SHARED = (1000, 1000), (1001, 1001), (0, 2000)

WORLD: Mapping[bytes, Thing] = {
    b"file": Thing(FILE | 0o644),
    b"mine": Thing(FILE | 0o644, _MINE),
    b"secret": Thing(FILE | 0o600),
    b"read-only": Thing(FILE | 0o444, _MINE),
    b"write-only": Thing(FILE | 0o222, _MINE),
    b"shared": Thing(FILE | 0o664, _SHARED),
    b"mine-shared": Thing(FILE | 0o664, (1000, 2000)),
    b"suid": Thing(FILE | 0o6777, _MINE),
    b"suid-shared": Thing(FILE | 0o6777, (1001, 2000)),
    b"fifo": Thing(stat.S_IFIFO | 0o666, _MINE),
    b"socket": Thing(stat.S_IFSOCK | 0o666, _MINE),
    b"null": Thing(stat.S_IFCHR | 0o666, _MINE),
    b"block": Thing(stat.S_IFBLK | 0o640, _OTHER),
    b"dir": Thing(DIR | 0o755),
    b"dir/file": Thing(FILE | 0o666),
    b"dir/sub": Thing(DIR | 0o777),
    b"home": Thing(DIR | 0o755, _MINE),
    b"home/file": Thing(FILE | 0o644),
    b"home/mine": Thing(FILE | 0o644, _MINE),
    b"home/empty": Thing(DIR | 0o755),
    b"home/full": Thing(DIR | 0o755),
    b"home/full/x": Thing(FILE | 0o644),
    b"sticky": Thing(DIR | 0o1777),
    b"sticky/file": Thing(FILE | 0o666),
    b"sticky/mine": Thing(FILE | 0o666, _MINE),
    b"sticky/empty": Thing(DIR | 0o777, _MINE),
    b"sticky/other": Thing(DIR | 0o777, _OTHER),
    b"my-sticky": Thing(DIR | 0o1777, _MINE),
    b"my-sticky/file": Thing(FILE | 0o666, _OTHER),
    b"sgid": Thing(DIR | 0o2777, _SHARED),
    b"sgid/file": Thing(FILE | 0o666, _SHARED),
    b"sgid-mine": Thing(DIR | 0o6775, (1000, 2000)),
    b"closed": Thing(DIR | 0o700),
    b"closed/file": Thing(FILE | 0o666, _MINE),
    b"no-search": Thing(DIR | 0o666),
    b"no-search/file": Thing(FILE | 0o666, _MINE),
    b"no-write": Thing(DIR | 0o555, _MINE),
    b"no-write/file": Thing(FILE | 0o644, _MINE),
    b"no-write/empty": Thing(DIR | 0o755, _MINE),
    b"to-file": Thing(LINK, target=b"file"),
    b"to-mine": Thing(LINK, _MINE, b"mine"),
    b"to-dir": Thing(LINK, _MINE, b"dir"),
    b"dangling": Thing(LINK, _MINE, b"nowhere"),
    b"home/up": Thing(LINK, target=b"../mine"),
    b"loop": Thing(LINK, _MINE, b"loop"),
    b"loop-1": Thing(LINK, target=b"loop-2"),
    b"loop-2": Thing(LINK, target=b"loop-1"),
    b"twin": Thing(FILE | 0o644, _MINE),
    b"home/twin": Thing(HARD, target=b"twin"),
    LONG: Thing(FILE | 0o644, _MINE),
}

# what the world does not have, or not by that path
_ELSE = (
    b"",
    b".",
    b"..",
    b"/",
    b"missing",
    b"missing/",
    b"missing/x",
    b"home/new",
    b"home/new/",
    b"sticky/new",
    b"sgid/new",
    b"closed/new",
    b"no-search/new",
    b"no-write/new",
    b"file/",
    b"file/x",
    b"file/.",
    b"fifo/x",
    b"dir/",
    b"dir/.",
    b"dir/..",
    b"home/empty/",
    b"home/empty/.",
    b"to-file/",
    b"to-file/x",
    b"to-dir/",
    b"to-dir/file",
    b"to-dir/new",
    b"dangling/",
    b"dangling/x",
    b"loop/",
    b"loop/x",
    b"home/" + b"N" * 255,
    b"home/" + b"N" * 256,
    TOO_LONG,
    TOO_LONG + b"/x",
    LONG + b"/x",
)


def paths() -> list[bytes]:
    """All that a call of one path is tried with."""
    too_long = [b"./" * ((_PATH_MAX - 10) // 2) + b"home/new", b"./" * (_PATH_MAX // 2) + b"file"]
    return [*WORLD, *_ELSE, *too_long]


def make(root: bytes, things: Mapping[bytes, Thing] = WORLD) -> None:
    """Make things below a new directory, all times long ago."""
    os.mkdir(root)
    os.chmod(root, 0o777)
    for path, thing in things.items():
        _make(os.path.join(root, path), thing, root)
    for path in [*sorted(things, reverse=True), b""]:
        os.utime(os.path.join(root, path), ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def _make(path: bytes, thing: Thing, root: bytes) -> None:
    kind = stat.S_IFMT(thing.mode)
    if kind == HARD:
        os.link(os.path.join(root, thing.target), path)
        return
    if kind == LINK:
        os.symlink(thing.target, path)
    elif kind == DIR:
        os.mkdir(path)
    else:
        os.mknod(path, kind | 0o600, os.makedev(*_DEVICES.get(kind, (0, 0))))
    if kind == FILE:
        with open(path, "wb") as file:
            file.write(b"bytes\n")
    os.lchown(path, *thing.owner)
    if kind != LINK:
        os.chmod(path, stat.S_IMODE(thing.mode))
