"""The oracle of merging is compared with what `umoci unpack` really leaves on disk."""

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from benches.commands import CommandFailed
from crfs.errors import FormatError
from tests.support.dockerregistry import need_programs, need_root
from tests.support.umoci import unpacked
from tests.support.union_entries import (
    Entry,
    directory,
    file,
    hardlink,
    opaque,
    plain,
    stacks,
    symlink,
    tarred,
    whiteout,
)
from tests.support.union_oracle import Merged, Seen, merge_plainly

# what umoci makes up itself, or changes on its way, has the time of the test
_LONG_AGO = 10**9

_STACKS: list[list[list[Entry]]] = [
    [
        [directory(b"usr/lib"), symlink(b"lib", b"usr/lib"), file(b"lib/x", 1)],
        [file(b"lib/y", 2), whiteout(b"lib/x")],
    ],
    [[directory(b"d"), file(b"d/a", 1), file(b"d/b", 2)], [file(b"d/c", 3), opaque(b"d"), file(b"d/a", 4)]],
    [[file(b"a", 1), hardlink(b"b", b"a"), hardlink(b"c", b"b")], [whiteout(b"b"), hardlink(b"d", b"c")]],
    [[file(b"a", 1), hardlink(b"b", b"a")], [file(b"a", 2)], [hardlink(b"c", b"b"), directory(b"b")]],
    [[symlink(b"l", b"../../p/q/../r"), file(b"l/x", 1)], [file(b"l/y", 2), whiteout(b"p")]],
    [[symlink(b"l", b"none/../d"), file(b"l/x", 1)], [whiteout(b"l")]],
    [
        [directory(b"p"), directory(b"d"), symlink(b"l", b"p/../d")],
        [file(b"l/x", 1), whiteout(b"p"), whiteout(b"d")],
    ],
    [[file(b"a", 1), file(b"b", 2)], [hardlink(b"a", b"b"), hardlink(b"b", b"a")]],
    [[file(b"a", 1), file(b"b", 2)], [hardlink(b"b", b"a"), file(b"b", 3)]],
    [[file(b"a", 1), file(b"d/x", 2)], [hardlink(b"d/b", b"a"), whiteout(b"d")]],
    [[file(b"a/b/c", 1)], [file(b"a", 2)], [file(b".wh..wh.plnk", 3), directory(b"a"), opaque(b".")]],
]


def _paths(root: Path) -> Iterator[tuple[bytes, Path]]:
    yield b"", root
    for path in root.rglob("*"):
        yield os.fsencode(path.relative_to(root)), path


def _differences(merged: Merged, root: Path) -> list[str]:
    """Where the oracle and umoci's directory differ, as one line each."""
    wanted, found = merged.look(), dict(_paths(root))
    lines = [f"only in one: {path!r}" for path in wanted.keys() ^ found.keys()]
    inodes: dict[int, set[bytes]] = {}
    for name, path in found.items():
        inodes.setdefault(path.lstat().st_ino, set()).add(name)
    for name in wanted.keys() & found.keys():
        shared = inodes[found[name].lstat().st_ino]
        lines += _compare(name, wanted[name], found[name], implied=name in merged.implied())
        if shared != wanted[name].names:
            lines.append(f"{name!r} is {shared} instead of {wanted[name].names}")
    return lines


def _compare(name: bytes, want: Seen, path: Path, *, implied: bool) -> list[str]:
    at = path.lstat()
    got: dict[str, object] = {"type": stat.S_IFMT(at.st_mode)}
    expected: dict[str, object] = {"type": stat.S_IFMT(want.mode)}
    if not implied:
        got |= {"mode": at.st_mode, "uid": at.st_uid, "gid": at.st_gid, "xattrs": _xattrs(path)}
        expected |= {"mode": want.mode, "uid": want.uid, "gid": want.gid, "xattrs": dict(want.xattrs)}
        # umoci gives a directory its time back only for changes made right in it
        if not stat.S_ISDIR(at.st_mode) or at.st_mtime < _LONG_AGO:
            got["mtime_ns"], expected["mtime_ns"] = at.st_mtime_ns, want.mtime_ns
    if stat.S_ISREG(at.st_mode):
        got |= {"data": path.read_bytes(), "nlink": at.st_nlink}
        expected |= {"data": b"".join(b"%d" % piece.blob_off for piece in want.pieces), "nlink": want.nlink}
    elif stat.S_ISLNK(at.st_mode):
        got["link"], expected["link"] = os.fsencode(os.readlink(path)), want.link
    return [
        f"{name!r}: {key} is {got[key]!r} instead of {expected[key]!r}"
        for key in got
        if got[key] != expected[key]
    ]


def _xattrs(path: Path) -> dict[bytes, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def _check(stack: Sequence[Sequence[Entry]]) -> bool:
    """Compare one stack; false where umoci refuses it, or links to a lower file before its own one comes."""
    try:
        merged = merge_plainly([plain(entries) for entries in stack])
    except FormatError:
        merged = None
    if merged is not None and merged.rebound:
        return False
    with tempfile.TemporaryDirectory() as temporary:
        try:
            root = unpacked(Path(temporary), [tarred(entries) for entries in stack])
        except CommandFailed:
            return False
        assert merged is not None, "umoci unpacks what has no tree here"
        assert _differences(merged, root) == []
    return True


@pytest.fixture(scope="module", autouse=True)
def _umoci() -> None:
    need_root()
    need_programs(["umoci"])


@pytest.mark.parametrize("stack", _STACKS)
def test_what_a_rule_leaves_is_what_umoci_leaves(stack: list[list[Entry]]) -> None:
    assert _check(stack)


@pytest.mark.slow
@given(stack=stacks(hardlinks=1))
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_random_stacks_leave_what_umoci_leaves(stack: list[list[Entry]]) -> None:
    _check(stack)
