"""How fast is an image's tree written to: files made, removed, changed and appended to?

The image's layers are directories, under a new upper directory on a new tmpfs: what a disk costs is everybody's, what
a file system costs is its own. In one mount: `tar -x` of 20,000 small files and `rm -rf` of them, `git clone` of a
local repository, then 100 appends to lower files, `chmod -R` of 10,000 and `rm -rf` of 13,000 lower ones, which are
in the page cache. What the tree shows afterwards has to be the same for all. crfs has the image instead of the
directories, all of it in its cache; crfs-fuse is its own overlay, over the directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from benches import images, workloads
from benches.commands import run
from benches.mounts import Mount
from benches.peers.writers import CRFS, CRFS_FUSE, CRFS_OVERLAY, FUSE_OVERLAYFS, OVERLAYFS, Stack, Writer
from benches.programs import read_whole, timed
from benches.question import Asking, Case, Unmeasured, Wanted

PEERS = (CRFS, CRFS_FUSE, FUSE_OVERLAYFS, OVERLAYFS)
MORE = (CRFS_OVERLAY,)

_IMAGE = "pyapp"
_SITE = "usr/local/lib/python3.11/dist-packages"
_APPENDED = f"{_SITE}/numpy"
_APPENDS = 100
_CHANGED = ("usr/share", "usr/include", f"{_SITE}/django")
# whose index has times in it
_NOT_GIT = ("-not", "-path", "*/.git/*")
_REMOVED = tuple(f"{_SITE}/{name}" for name in ("botocore", "numpy", "pandas", "scipy", "sympy"))


def cases(wanted: Wanted) -> Sequence[Case]:
    """One image, without a registry."""
    return [Case(_IMAGE, (_IMAGE,))]


def ask(asking: Asking) -> str:
    """Time one peer's writes; a digest of the tree afterwards."""
    writer, place = cast(Writer, asking.peer), asking.place
    lowers = tuple(images.lower_dirs(_IMAGE))
    for lower in lowers:
        read_whole(lower)
    with contextlib.ExitStack() as opened:
        space = opened.enter_context(_tmpfs(place.directory / "space"))
        stack = Stack(_IMAGE, lowers, space / "upper", space / "work")
        mount = opened.enter_context(writer.mounted(stack, place.directory / "tree"))
        return "; ".join((*_make(asking, mount), _change(asking, mount)))


def _make(asking: Asking, mount: Mount) -> Iterator[str]:
    """Time what has nothing to do with the lower directories."""
    new, clone = mount.path / "new", mount.path / "clone"
    new.mkdir()
    asking.add(untar_s=timed("tar", "-C", new, "-xf", workloads.archive())[0])
    yield _shown(new)
    asking.add(rm_new_s=timed("rm", "-rf", new)[0])
    source = workloads.repository()
    asking.add(clone_s=timed("git", "clone", "-q", "--no-hardlinks", source, clone)[0])
    yield _shown(clone, *_NOT_GIT)


def _change(asking: Asking, mount: Mount) -> str:
    """Time what is done to lower files."""
    asking.add(append_s=_append(mount))
    asking.add(chmod_s=timed("chmod", "-R", "go-w,o-x", *_paths(mount, _CHANGED))[0])
    asking.add(rm_lower_s=timed("rm", "-rf", *_paths(mount, _REMOVED))[0])
    return _shown(mount.path, *_NOT_GIT)


def _paths(mount: Mount, names: Sequence[str]) -> list[Path]:
    return [mount.path / name for name in names]


def _append(mount: Mount) -> float:
    """A line to each of some files, by a shell that does nothing else."""
    files = sorted((mount.path / _APPENDED).rglob("*.py"))[:_APPENDS]
    if len(files) < _APPENDS:
        raise Unmeasured(f"only {len(files)} files in {_APPENDED}")
    seconds, _ = timed("sh", "-c", 'for file; do echo "# one more line" >> "$file"; done', "sh", *files)
    return seconds


def _shown(tree: Path, *which: str) -> str:
    """A digest of a tree's names, modes, owners, sizes of files and targets of links."""
    format = r"%y%m %U:%G %P %l\n"
    lines = run("find", tree, *which, "-type", "f", "-printf", r"%s " + format)
    lines += run("find", tree, *which, "-not", "-type", "f", "-printf", format)
    told = sorted(lines.splitlines())
    return f"{len(told)} names, {hashlib.sha256(chr(10).join(told).encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def _tmpfs(at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "bench", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
