"""Compare two directory trees in everything that lstat, readlink, xattrs and the bytes tell. Any thread.

`python -m tests.support.compare A B` prints the differences and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

_PIECE = 1 << 20
_SECOND = 10**9

Path = str | bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Allowed:
    """Differences that are no difference: attributes not looked at, and names whose times are not."""

    mtime_seconds: bool = False
    untimed: Collection[bytes] = ()
    xattrs: Collection[str] = ()


def compare_trees(
    mount: Path,
    oracle: Path,
    *,
    mtime_seconds: bool = False,
    untimed: Collection[bytes] = (),
    ignored_xattrs: Collection[str] = (),
) -> list[str]:
    """Every difference between the trees, as one line each; an empty list when there's none.

    Looked at are presence, type, mode, owners, size, mtime, nlink, rdev, symlink targets, xattrs, content,
    and which names share an inode. With `mtime_seconds` the mount's times must be the oracle's rounded to the
    nearest second, which is what eStargz keeps. `untimed` are paths, relative to the root, whose mtime isn't
    compared; `.` is the root. Mount points below the roots are not crossed.
    """
    allowed = Allowed(mtime_seconds, frozenset(untimed), frozenset(ignored_xattrs))
    listed = list(_walk(_root(mount)))
    left, right = _by_path(listed), _by_path(_walk(_root(oracle)))
    found = [_line(path, "is listed twice") for path in _repeated(listed)]
    found += [_line(path, "is only in the oracle") for path in sorted(right.keys() - left.keys())]
    found += [_line(path, "is only in the mount") for path in sorted(left.keys() - right.keys())]
    for path in sorted(left.keys() & right.keys()):
        found += [_line(path, what) for what in _compare(left[path], right[path], allowed)]
    return found + _compare_groups(left, right)


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a tree: where it is and what lstat said."""

    path: bytes
    relative: bytes
    status: os.stat_result


def _root(path: Path) -> Entry:
    return Entry(os.fsencode(path), b".", os.lstat(path))


def _by_path(entries: Iterable[Entry]) -> dict[bytes, Entry]:
    return {entry.relative: entry for entry in entries}


def _repeated(entries: Iterable[Entry]) -> list[bytes]:
    times = Counter(entry.relative for entry in entries)
    return sorted(path for path, number in times.items() if number > 1)


def _walk(top: Entry) -> Iterator[Entry]:
    waiting = [top]
    while waiting:
        entry = waiting.pop()
        yield entry
        if stat.S_ISDIR(entry.status.st_mode) and entry.status.st_dev == top.status.st_dev:
            waiting += _children(entry)


def _children(directory: Entry) -> list[Entry]:
    prefix = b"" if directory.relative == b"." else directory.relative + b"/"
    paths = [(name, os.path.join(directory.path, name)) for name in os.listdir(directory.path)]
    return [Entry(path, prefix + name, os.lstat(path)) for name, path in paths]


def _compare(left: Entry, right: Entry, allowed: Allowed) -> Iterator[str]:
    kind = stat.S_IFMT(left.status.st_mode)
    if kind != stat.S_IFMT(right.status.st_mode):
        yield f"type: {_kind(left)}, the oracle has {_kind(right)}"
        return
    for what, get in _ATTRIBUTES.items():
        if get(left.status) != get(right.status):
            yield f"{what}: {get(left.status)}, the oracle has {get(right.status)}"
    yield from _compare_times(left, right, allowed)
    yield from _compare_xattrs(left, right, allowed)
    if kind in _CONTENTS:
        yield from _compare_values("content", left, right, _CONTENTS[kind])


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _size(status: os.stat_result) -> int:
    """The size of what has one; a directory's is its filesystem's own business."""
    return status.st_size if stat.S_IFMT(status.st_mode) in _CONTENTS else 0


_ATTRIBUTES: dict[str, Callable[[os.stat_result], object]] = {
    "mode": _mode,
    "uid": lambda status: status.st_uid,
    "gid": lambda status: status.st_gid,
    "size": _size,
    "nlink": lambda status: status.st_nlink,
    "rdev": lambda status: (os.major(status.st_rdev), os.minor(status.st_rdev)),
}


def _compare_times(left: Entry, right: Entry, allowed: Allowed) -> Iterator[str]:
    if left.relative in allowed.untimed:
        return
    seen, wanted = left.status.st_mtime_ns, right.status.st_mtime_ns
    if allowed.mtime_seconds:
        wanted = (wanted + _SECOND // 2) // _SECOND * _SECOND
    if seen != wanted:
        yield f"mtime: {seen}, the oracle has {wanted}"


def _compare_xattrs(left: Entry, right: Entry, allowed: Allowed) -> Iterator[str]:
    seen, wanted = _xattrs(left, allowed), _xattrs(right, allowed)
    for name in sorted(seen.keys() | wanted.keys()):
        if seen.get(name) != wanted.get(name):
            yield f"xattr {name}: {seen.get(name)!r}, the oracle has {wanted.get(name)!r}"


def _xattrs(entry: Entry, allowed: Allowed) -> dict[str, bytes]:
    names = os.listxattr(entry.path, follow_symlinks=False)
    kept = [name for name in names if name not in allowed.xattrs]
    return {name: os.getxattr(entry.path, name, follow_symlinks=False) for name in kept}


def _compare_values(what: str, left: Entry, right: Entry, get: Callable[[bytes], object]) -> Iterator[str]:
    try:
        seen: object = get(left.path)
    except OSError as error:
        seen = error
    wanted = get(right.path)
    if seen != wanted:
        yield f"{what}: {seen!r}, the oracle has {wanted!r}"


def _digest(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


_CONTENTS: dict[int, Callable[[bytes], object]] = {stat.S_IFREG: _digest, stat.S_IFLNK: os.readlink}


def _compare_groups(left: dict[bytes, Entry], right: dict[bytes, Entry]) -> list[str]:
    seen, wanted = _groups(left), _groups(right)
    found = [f"hard links: {_names(group)} share no inode in the mount" for group in wanted - seen]
    return sorted(found + [f"hard links: {_names(group)} share one in the mount" for group in seen - wanted])


def _groups(entries: dict[bytes, Entry]) -> set[frozenset[bytes]]:
    """The sets of names that share an inode, of more than one name, directories left out."""
    groups: defaultdict[tuple[int, int], set[bytes]] = defaultdict(set)
    for path, entry in entries.items():
        if not stat.S_ISDIR(entry.status.st_mode):
            groups[entry.status.st_dev, entry.status.st_ino].add(path)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _names(group: frozenset[bytes]) -> str:
    return ", ".join(repr(name) for name in sorted(group))


def _kind(entry: Entry) -> str:
    return stat.filemode(entry.status.st_mode)[0]


def _line(path: bytes, what: str) -> str:
    return f"{path!r} {what}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the differences; 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.compare", description=__doc__)
    parser.add_argument("mount")
    parser.add_argument("oracle")
    parser.add_argument("--mtime-seconds", action="store_true", help="A has the times of B in whole seconds")
    parser.add_argument("--untimed", action="append", default=[], metavar="PATH", help="not its mtime")
    parser.add_argument("--ignore-xattr", action="append", default=[], metavar="NAME")
    options = parser.parse_args(argv)
    found = compare_trees(
        options.mount,
        options.oracle,
        mtime_seconds=options.mtime_seconds,
        untimed=[os.fsencode(path) for path in options.untimed],
        ignored_xattrs=options.ignore_xattr,
    )
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
