"""EROFS images as erofs-utils and the kernel see them. Needs root for the kernel."""

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from crfs._native.contents import Contents
from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from crfs.formats.erofs import write_image
from tests.support.dockerregistry import lacking
from tests.support.union_oracle import Seen

UUID = bytes(range(16))
_MARK = b"trusted.overlay."


def need(program: str) -> None:
    """Skip the test where a program of erofs-utils is missing, but fail it in CI."""
    if shutil.which(program) is None:
        lacking(f"{program} is not installed")


def need_kernel() -> None:
    """Skip the test where an image can't be mounted."""
    if os.geteuid() or "erofs" not in Path("/proc/filesystems").read_text():
        lacking("the kernel mounts no EROFS image here")


def tree_of(*layers: LayerIndex) -> tuple[Tree, Contents]:
    """The merged tree, and its contents' names."""
    tree = Tree(merge(layers))
    return tree, Contents(tree, [b"layer %d" % number for number in range(len(layers))])


def write(tree: Tree, contents: Contents, path: Path) -> Path:
    """The image in a file."""
    with path.open("wb") as file:
        file.writelines(write_image(tree, contents, UUID))
    return path


def check(image: Path) -> None:
    """What fsck.erofs says has to be nothing."""
    done = subprocess.run(["fsck.erofs", image], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


@contextlib.contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """The image, mounted by the kernel."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "erofs", "-o", "ro", image, where], check=True, timeout=60)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True, timeout=60)


def see(root: Path) -> dict[bytes, Seen]:
    """All that the kernel shows of a mounted image, with chunks left out."""
    top = os.fsencode(root)
    paths = [b"", *_below(top, b"")]
    status = {path: os.lstat(top + b"/" + path) for path in paths}
    inodes: dict[int, set[bytes]] = {}
    for path, found in status.items():
        inodes.setdefault(found.st_ino, set()).add(path)
    return {
        path: _see(top + b"/" + path, found, frozenset(inodes[found.st_ino]))
        for path, found in status.items()
    }


def _below(top: bytes, path: bytes) -> Iterator[bytes]:
    for entry in os.scandir(top + b"/" + path):
        below = path + b"/" + entry.name if path else entry.name
        yield below
        if entry.is_dir(follow_symlinks=False):
            yield from _below(top, below)


def _see(path: bytes, found: os.stat_result, names: frozenset[bytes]) -> Seen:
    keys = os.listxattr(path, follow_symlinks=False)
    return Seen(
        found.st_mode,
        found.st_uid,
        found.st_gid,
        0 if stat.S_ISDIR(found.st_mode) else found.st_size,
        found.st_mtime_ns,
        found.st_rdev,
        found.st_nlink,
        os.readlink(path) if stat.S_ISLNK(found.st_mode) else b"",
        {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in keys},
        (),
        names,
    )


def expect(seen: dict[bytes, Seen], names: dict[bytes, bytes | None]) -> dict[bytes, Seen]:
    """What an image has to show of a tree of which `look_at` saw this, with the names of contents by path."""
    marked = {os.path.dirname(path) for path, entry in seen.items() if _is_whiteout(entry)}
    return {path: _expect(entry, names[path], path in marked) for path, entry in seen.items()}


def _is_whiteout(entry: Seen) -> bool:
    return stat.S_ISCHR(entry.mode) and entry.rdev == 0


def _expect(entry: Seen, name: bytes | None, marked: bool) -> Seen:
    xattrs = {
        _MARK + b"overlay." + key[len(_MARK) :] if key.startswith(_MARK) else key: value
        for key, value in entry.xattrs.items()
    }
    mode = entry.mode
    if name is not None:
        xattrs |= {_MARK + b"metacopy": b"", _MARK + b"redirect": b"/" + name}
    if _is_whiteout(entry):
        xattrs[_MARK + b"overlay.whiteout"] = b""
        mode = stat.S_IFREG | stat.S_IMODE(mode)
    if marked:
        xattrs.setdefault(_MARK + b"overlay.opaque", b"x")
    return Seen(
        mode,
        entry.uid,
        entry.gid,
        len(entry.link) if stat.S_ISLNK(mode) else entry.size if stat.S_ISREG(mode) else 0,
        entry.mtime_ns,
        entry.rdev if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else 0,
        entry.nlink,
        entry.link,
        xattrs,
        (),
        entry.names,
    )


def named(tree: Tree, contents: Contents, paths: Sequence[bytes]) -> dict[bytes, bytes | None]:
    """The names of contents by path."""
    return {path: contents.name(_find(tree, path)) for path in paths}


def _find(tree: Tree, path: bytes) -> int:
    inode = 1
    for name in filter(None, path.split(b"/")):
        inode = tree.find(inode, name)
    return inode
