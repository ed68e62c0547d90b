"""An overlay used by paths, without a kernel: each call looks names up, and forgets them again. One thread.

    with opened([lower], base) as tree:
        tree.write(b"dir/file", b"new")
        assert tree.stat(b"dir/file").nlink == 1

Without root it needs `userxattr`, for marks that everyone may make.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crfs.overlay.attributes import Attributes
from crfs.overlay.files import Changes
from crfs.overlay.lower import Lower, open_directory
from crfs.overlay.node import ROOT_INODE, Node
from crfs.overlay.overlay import Overlay
from crfs.overlay.ownership import Owner
from crfs.overlay.spec import UpperSpec


def _never() -> bool:
    return False


def owner() -> Owner:
    """Us."""
    return Owner(os.geteuid(), os.getegid())


@dataclass(slots=True)
class OverlayTree:
    """Operations by path."""

    overlay: Overlay

    @contextlib.contextmanager
    def node(self, path: bytes) -> Iterator[Node]:
        """What is at a path, referred to as long as the block lasts."""
        held: list[int] = []
        number = ROOT_INODE
        try:
            for name in path.split(b"/") if path else ():
                found = self.overlay.lookup(number, name)
                if found is None:
                    raise FileNotFoundError(os.fsdecode(path))
                number = found[0]
                held.append(number)
            yield self.overlay.node(number)
        finally:
            for each in reversed(held):
                self.overlay.forget(each, 1)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The number of the directory that a path is in, and its name there."""
        head, _, name = path.rpartition(b"/")
        with self.node(head) as found:
            yield found.ino, name

    @contextlib.contextmanager
    def open(self, path: bytes, flags: int = os.O_RDONLY) -> Iterator[Node]:
        """An open file."""
        with self.node(path) as node:
            self.overlay.files.open(node, flags, _never)
        try:
            yield node
        finally:
            self.overlay.release(node)

    def stat(self, path: bytes) -> Attributes:
        """What stat shows."""
        with self.node(path) as node:
            return self.overlay.files.attributes(node)

    def number(self, path: bytes) -> int:
        """The inode number."""
        with self.node(path) as node:
            return node.ino

    def listed(self, path: bytes) -> dict[bytes, int]:
        """Names and numbers, as their directory tells them."""
        with self.node(path) as node:
            return {name: number for name, number, _, _ in self.overlay.list(node.ino)}

    def read(self, path: bytes) -> bytes:
        """A file's content."""
        with self.open(path) as node:
            return self.overlay.files.read(node, 0, 1 << 20, _never)

    def write(self, path: bytes, data: bytes) -> None:
        """Write from the beginning on."""
        with self.open(path, os.O_RDWR) as node:
            self.overlay.files.write(node, 0, data)

    def chmod(self, path: bytes, mode: int) -> None:
        """Change a mode."""
        with self.node(path) as node:
            self.overlay.files.change(node, Changes(mode=mode), _never)

    def create(self, path: bytes, data: bytes = b"") -> None:
        """A new file."""
        with self.parent(path) as (above, name):
            number, _ = self.overlay.create(above, name, 0o644, owner())
            node = self.overlay.node(number)
            self.overlay.files.write(node, 0, data)
            self.overlay.release(node)
            self.overlay.forget(node.ino, 1)

    def mkdir(self, path: bytes) -> None:
        """A new directory."""
        with self.parent(path) as (above, name):
            number, _ = self.overlay.mkdir(above, name, 0o755, owner())
            self.overlay.forget(number, 1)

    def unlink(self, path: bytes) -> None:
        """Remove a name."""
        with self.parent(path) as (above, name):
            self.overlay.unlink(above, name)

    def link(self, old: bytes, new: bytes) -> None:
        """One more name."""
        with self.node(old) as node, self.parent(new) as (above, name):
            self.overlay.link(node.ino, above, name, _never)
            self.overlay.forget(node.ino, 1)

    def rename(self, old: bytes, new: bytes) -> None:
        """Move a name."""
        with self.parent(old) as (old_above, old_name), self.parent(new) as (new_above, new_name):
            self.overlay.rename(old_above, old_name, new_above, new_name, _never)


@contextlib.contextmanager
def opened(
    lowers: Sequence[Path | Lower], base: Path, *, userxattr: bool = True, fresh: bool = False
) -> Iterator[OverlayTree]:
    """An overlay with its upper and work directory below `base`, which stay. `lowers` topmost first."""
    for name in ("upper", "work"):
        (base / name).mkdir(parents=True, exist_ok=True)
    trees = [open_directory(os.fsencode(each)) if isinstance(each, Path) else each for each in lowers]
    upper, work = os.fsencode(base / "upper"), os.fsencode(base / "work")
    spec = UpperSpec(upper, work, userxattr=userxattr, fresh=fresh)
    overlay = Overlay(trees, spec)
    try:
        yield OverlayTree(overlay)
    finally:
        overlay.close()


class Open(Protocol):
    """opened(), or the like."""

    def __call__(self, lowers: Sequence[Path | Lower], base: Path) -> AbstractContextManager[OverlayTree]: ...
