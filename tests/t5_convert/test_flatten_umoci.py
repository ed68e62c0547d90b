"""Layers made into one are, unpacked by umoci, what umoci unpacks of the layers one over the other."""

import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from benches.commands import CommandFailed
from crfs.convert.entries import iter_tar
from crfs.convert.flatten import Flat, Opener
from crfs.convert.plain import tar_pieces
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
from tests.support.union_oracle import merge_plainly

Found = dict[bytes, tuple[object, ...]]

_STACKS: dict[str, list[list[Entry]]] = {
    "a link to what its layer hides": [[file(b"a", 1)], [hardlink(b"b", b"a"), whiteout(b"a")]],
    "a link to what its layer replaces": [
        [file(b"a", 1)],
        [hardlink(b"b", b"a"), directory(b"a"), file(b"a/a", 2)],
    ],
    "in an opaque directory": [[file(b"d/a", 1)], [hardlink(b"b", b"d/a"), opaque(b"d"), file(b"d/c", 2)]],
    "links of a link": [
        [file(b"a", 1), hardlink(b"b", b"a")],
        [hardlink(b"c", b"b"), whiteout(b"a"), whiteout(b"b")],
        [hardlink(b"d", b"c")],
    ],
    "through a lower symbolic link": [
        [directory(b"usr/lib"), symlink(b"lib", b"usr/lib"), file(b"lib/x", 1)],
        [file(b"lib/y", 2), hardlink(b"z", b"lib/x"), whiteout(b"lib/x")],
    ],
    "a symbolic link that goes": [
        [symlink(b"l", b"d"), file(b"l/x", 1)],
        [whiteout(b"l")],
        [file(b"l/y", 2)],
    ],
    "a directory that nothing is left of": [[file(b"d/e/a", 1)], [whiteout(b"d/e/a")]],
}


def _opener(tar: bytes) -> Opener:
    return lambda: nullcontext(iter_tar(BytesIO(tar)))


def _flattened(tars: Sequence[bytes]) -> bytes:
    return b"".join(tar_pieces(Flat([_opener(tar) for tar in tars]).iter_entries()))


def _look(root: Path) -> Found:
    """All that is there, and which names are of one file; but for directories' times, which umoci makes up."""
    paths = {os.fsencode(path.relative_to(root)): path for path in [root, *root.rglob("*")]}
    names = defaultdict[int, list[bytes]](list)
    for name in sorted(paths):
        names[paths[name].lstat().st_ino].append(name)
    return {name: (*_status(path), *names[path.lstat().st_ino]) for name, path in paths.items()}


def _status(path: Path) -> tuple[object, ...]:
    at = path.lstat()
    content: object = None
    if stat.S_ISLNK(at.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(at.st_mode):
        content = path.read_bytes()
    xattrs = os.listxattr(path, follow_symlinks=False)
    values = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(xattrs)]
    time = 0 if stat.S_ISDIR(at.st_mode) else at.st_mtime_ns
    return at.st_mode, at.st_uid, at.st_gid, time, content, values


def _check(tars: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        want = unpacked(Path(one), tars)
        assert _look(unpacked(Path(other), [_flattened(tars)])) == _look(want)


@pytest.fixture(scope="module", autouse=True)
def _umoci() -> None:
    need_root()
    need_programs(["umoci"])


@pytest.mark.parametrize("case", _STACKS)
def test_names_of_what_lower_layers_had(case: str) -> None:
    _check([tarred(entries) for entries in _STACKS[case]])


@given(stack=stacks(hardlinks=1))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_random_stacks(stack: list[list[Entry]]) -> None:
    try:
        # umoci links to a lower file where the layer's own one comes later
        assume(not merge_plainly([plain(entries) for entries in stack]).rebound)
    except FormatError:
        assume(False)
    try:
        _check([tarred(entries) for entries in stack])
    except CommandFailed:
        assume(False)
