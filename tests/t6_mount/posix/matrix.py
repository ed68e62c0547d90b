"""The matrix: each call, with each kind of argument, on each kind of path, as each user. Data; nothing is run here.

A case has a directory of its own, so that no case depends on another; within one, the steps follow each other.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import fsops
from tests.support.fsops import Step
from tests.t6_mount.posix.watch import Opened, OpenFile
from tests.t6_mount.posix.world import DIR, FILE, LINK, OLD_NS, WORLD, Thing, paths

USERS = (0, 1000, 1001)
_MODES = (0o000, 0o6755, 0o2711, 0o1777)
_OWNERS = ((-1, -1), (1000, -1), (-1, 2000), (1001, 0))
_TIMES: tuple[tuple[fsops.Time, fsops.Time], ...] = (
    ("now", "now"),
    ("omit", "omit"),
    ("now", OLD_NS // 2),
    (1, (1 << 31) * 10**9 + 7),
)
_OPENS = (
    os.O_RDONLY,
    os.O_WRONLY,
    os.O_RDWR | os.O_APPEND,
    os.O_WRONLY | os.O_TRUNC,
    os.O_RDONLY | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDWR | os.O_DIRECTORY,
    os.O_RDWR | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_TRUNC,
    os.O_PATH | os.O_NOFOLLOW,
)
_NODES = (
    (FILE | 0o6755, (0, 0)),
    (stat.S_IFIFO | 0o666, (0, 0)),
    (stat.S_IFSOCK | 0o2777, (0, 0)),
    (stat.S_IFCHR | 0o660, (1, 3)),
    (stat.S_IFCHR | 0o660, (0, 0)),
    (stat.S_IFBLK | 0o4660, (7, 200)),
    (DIR | 0o755, (0, 0)),
)
_XATTRS = ("user.a", "trusted.a", "nowhere.a", "user." + "n" * 251)
_SIZES = (0, 100, -1)


@dataclass(frozen=True, slots=True)
class Case:
    """`name` is also that of the case's directory, which holds `things` before the first step."""

    name: str
    steps: Sequence[Step]
    things: Mapping[bytes, Thing] | None = None


def _symlink(path: bytes, target: bytes, *, user: int) -> Step:
    return fsops.Symlink(target, path, user=user)


def _calls() -> Iterator[tuple[str, Callable[..., Step], tuple[Any, ...]]]:
    """Family, kind of step, and what it takes after the path."""
    yield from (("chmod", fsops.Chmod, (mode,)) for mode in _MODES)
    yield from (("mkdir", fsops.Mkdir, (mode,)) for mode in _MODES)
    yield from (("mknod", fsops.Mknod, (mode, *device)) for mode, device in _NODES)
    yield from (("chown", fsops.Chown, (*owner, follow)) for owner in _OWNERS for follow in (True, False))
    yield from (("utime", fsops.Utime, (*times, follow)) for times in _TIMES for follow in (True, False))
    yield from (("open", Opened, (flags, 0o6755)) for flags in _OPENS)
    yield from (("truncate", fsops.Truncate, (size,)) for size in _SIZES)
    yield from (("symlink", _symlink, (b"t" * size,)) for size in (1, 0, 4095, 4096))
    for name in _XATTRS:
        yield from (("xattr", fsops.SetXattr, (name, b"v")), ("xattr", fsops.GetXattr, (name,)))
        yield "xattr", fsops.RemoveXattr, (name,)
    yield "xattr", fsops.ListXattr, ()
    yield from (("remove", fsops.Unlink, ()), ("remove", fsops.Rmdir, ()))
    yield from (
        ("look", fsops.Readlink, ()),
        ("look", fsops.Stat, (True,)),
        ("look", fsops.ListDirectory, ()),
    )
    yield from (("look", fsops.Access, (mode,)) for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK))


def _single() -> Iterator[tuple[str, Case]]:
    for number, (family, kind, more) in enumerate(_calls()):
        for user in USERS:
            steps = [kind(path, *more, user=user) for path in paths()]
            yield family, Case(f"{family}-{number}-{user}", steps, WORLD)


# ---- calls of two paths: each kind of object to each other, each in a directory of each kind

_ENDS: Mapping[str, Mapping[bytes, Thing]] = {
    "missing": {},
    "file": {b"": Thing(FILE | 0o644, (1000, 1000))},
    "root's": {b"": Thing(FILE | 0o644)},
    "fifo": {b"": Thing(stat.S_IFIFO | 0o644, (1000, 1000))},
    "device": {b"": Thing(stat.S_IFCHR | 0o644, (1001, 1001))},
    "symlink": {b"": Thing(LINK, (1000, 1000), b"target")},
    "empty": {b"": Thing(DIR | 0o755, (1000, 1000))},
    "full": {b"": Thing(DIR | 0o755, (1000, 1000)), b"/x": Thing(FILE | 0o644)},
    "root's directory": {b"": Thing(DIR | 0o755)},
}
_PARENTS = {
    "plain": Thing(DIR | 0o777),
    "sticky": Thing(DIR | 0o1777),
    "sgid": Thing(DIR | 0o2777, (0, 2000)),
    "closed": Thing(DIR | 0o755),
}
_BETWEEN = (("plain", "plain"), ("sticky", "plain"), ("plain", "sticky"), ("sgid", "closed"))
_TWO: Mapping[str, Callable[[bytes, bytes, int], Step]] = {
    "rename": lambda source, path, user: fsops.Rename(source, path, user=user),
    "link": lambda source, path, user: fsops.Link(source, path, user=user),
}


def _two() -> Iterator[tuple[str, Case]]:
    for (name, call), user in itertools.product(_TWO.items(), USERS):
        for source, target in itertools.product(_ENDS, _ENDS):
            # in others than plain directories those that show whose rights count
            rights = {source, target} <= {"file", "empty", "missing", "root's"}
            for left, right in _BETWEEN if rights else _BETWEEN[:1]:
                things = {b"from": _PARENTS[left], b"to": _PARENTS[right]}
                things |= {b"from/a" + path: thing for path, thing in _ENDS[source].items()}
                things |= {b"to/b" + path: thing for path, thing in _ENDS[target].items()}
                case = "-".join((name, str(user), left, right, source, target))
                yield name, Case(case, [call(b"from/a", b"to/b", user)], things)
        tried = {
            "from": [call(path, b"home/%d" % at, user) for at, path in enumerate(paths())],
            "to": [call(b"mine", path, user) for path in paths()],
            "to-directory": [call(b"home/empty", path, user) for path in paths()],
            **{f"odd{at}": [call(*pair, user)] for at, pair in enumerate(_ODD_PAIRS)},
        }
        yield from ((name, Case(f"{name}-{user}-{which}", steps, WORLD)) for which, steps in tried.items())


_ODD_PAIRS = (
    (b"twin", b"home/twin"),
    (b"twin", b"twin"),
    (b"dir", b"dir"),
    (b"dir", b"dir/sub"),
    (b"dir", b"dir/sub/x"),
    (b"home/full", b"home"),
    (b"home/.", b"new"),
    (b"home/..", b"new"),
    (b"home", b"dir/."),
    (b"home/empty", b"dir/.."),
    (b"home/mine", b"home/new/"),
    (b"home/empty", b"home/new/"),
    (b"home/empty/", b"home/new"),
    (b"to-dir/", b"home/new"),
    (b"to-dir", b"home/new"),
    (b"to-mine", b"mine"),
    (b"mine", b"to-mine"),
)


# ---- calls of open files, with and without a name


def _handles() -> Iterator[tuple[str, Case]]:
    attributes: Sequence[tuple[str, Sequence[Step]]] = [
        ("truncate", [fsops.HandleTruncate(1, size) for size in (0, 3, 100)]),
        ("chmod", [fsops.HandleChmod(1, 0o6711), fsops.HandleChmod(1, 0o600, user=1001)]),
        ("chown", [fsops.HandleChown(1, 1000, 2000), fsops.HandleChown(1, -1, 0, user=1000)]),
        ("utime", [fsops.HandleUtime(1, *times) for times in _TIMES]),
        (
            "write",
            [fsops.Write(1, b"w"), fsops.Write(1, b"w", 1, 1000), fsops.Read(1, 20, 0), fsops.HandleSync(1)],
        ),
        ("write-as", [fsops.Write(1, b"w", user=1001), fsops.Write(1, b"w", user=1000)]),
        ("map", [fsops.MapWrite(1, b"mapped", 0), fsops.MapRead(1), fsops.HandleSync(1)]),
        ("xattr", [fsops.HandleSetXattr(1, "user.a", b"v"), fsops.HandleXattrs(1)]),
    ]
    losses: Mapping[str, Sequence[Step]] = {
        "named": [],
        "unlinked": [fsops.Unlink(b"suid")],
        "replaced": [fsops.Rename(b"mine", b"suid")],
        "moved": [fsops.Rename(b"suid", b"home/new")],
        "linked": [fsops.Link(b"suid", b"home/new"), fsops.Unlink(b"suid")],
    }
    for (name, steps), (loss, before), flags in itertools.product(
        attributes, losses.items(), (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND)
    ):
        taken = [fsops.Open(1, b"suid", flags), *before]
        for step in steps:
            taken += [OpenFile(1, step), fsops.Stat(b"suid"), fsops.Stat(b"home/new")]
        yield "handles", Case(f"handles-{name}-{loss}-{flags:o}", [*taken, fsops.Close(1)], WORLD)


def cases() -> dict[str, list[Case]]:
    """All of them by family."""
    found: dict[str, list[Case]] = {}
    for family, case in itertools.chain(_single(), _two(), _handles()):
        found.setdefault(family, []).append(case)
    return found
