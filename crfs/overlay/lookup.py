"""What a name means: the upper directory first, then each lower tree, as overlayfs looks things up.

The overlay's lock is held by whoever calls. Nothing is changed here, on disk or below.
"""

import enum
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from crfs.overlay.lower import Attributes, Found, Lower, attributes_of
from crfs.overlay.marks import OPAQUE_NAME, PLAIN, WHITEOUT_PREFIX, is_whiteout, read_marks
from crfs.overlay.node import Node, NodeTable, Part, origin_of
from crfs.overlay.upper import Upper

# numbers of upper objects, and of those of the lower trees from the second on, are moved out of each other's way
_UPPER = 1 << 56
_LOWER_STEP = 1 << 48
_NUMBER_MASK = _LOWER_STEP - 1


class _Says(enum.Enum):
    NOTHING_IS_THERE = enum.auto()


class Lookup:
    """Finds nodes. `lowers` topmost first; `upper` None where the overlay is read-only."""

    def __init__(self, lowers: Sequence[Lower], upper: Upper | None, root: Node, table: NodeTable) -> None:
        self.root = root
        self.table = table
        self._upper = upper
        self._lowers = list(lowers)
        self._places = {id(lower): place for place, lower in enumerate(lowers)}
        root.upper = upper is not None
        root.lowers = [(lower, Found(lower.root(), stat.S_IFDIR, 1)) for lower in lowers]
        root.mode = self.attributes(root).mode

    def find(self, parent: Node, name: bytes) -> Node | None:
        """The node that a directory has under a name. OSError where a tree can't be read."""
        known = parent.children.get(name)
        if known is not None:
            return known
        if parent.is_orphan:
            return None
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if parent.upper and self._upper:
            found = self._find_upper(parent, name)
            if isinstance(found, _Says):
                return None
            if found is not None:
                return found
        parts = self.lower_parts(parent.lowers, name)
        return self._lower_node(parent, name, parts) if parts else None

    def _find_upper(self, parent: Node, name: bytes) -> "Node | _Says | None":
        """The upper's node; None where it does not say what a name means."""
        assert self._upper is not None
        fd = self._upper.dir_fd(parent)
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return _Says.NOTHING_IS_THERE if self._upper.has_aufs_whiteout(fd, name) else None
        if is_whiteout(info):
            return _Says.NOTHING_IS_THERE
        if not stat.S_ISDIR(info.st_mode):
            return self._upper_file(parent, name, info)
        node = self.table.add(_UPPER + info.st_ino, info.st_mode, parent, name)
        self.table.set_upper(node, info.st_ino)
        if parent.lowers or self._lowers:
            self._add_lower_parts(node, parent)
        return node

    def _upper_file(self, parent: Node, name: bytes, info: os.stat_result) -> Node:
        node = self.table.find_upper(info.st_ino)
        if node is None:
            node = self.table.add(_UPPER + info.st_ino, info.st_mode, parent, name)
            self.table.set_upper(node, info.st_ino)
        else:
            self.table.add_name(node, parent, name)
        return node

    def _add_lower_parts(self, node: Node, parent: Node) -> None:
        """Find what an upper directory is merged with, and take its number from there."""
        assert self._upper is not None
        assert node.name is not None
        marks = read_marks(self._upper.path(node))
        if marks.opaque or self._upper.has_name(node, OPAQUE_NAME):
            return
        if marks.redirect is None:
            parts = self.lower_parts(parent.lowers, node.name)
        else:
            parts = self._redirected(marks.redirect, parent.lowers, self._lowers)
            absolute = marks.redirect.startswith(b"/")
            node.redirect = marks.redirect if absolute else origin_of(parent) + b"/" + marks.redirect
        if parts and stat.S_ISDIR(parts[0][1].mode):
            self.table.set_lowers(node, parts)

    def _redirected(self, redirect: bytes, siblings: list[Part], lowers: list[Lower]) -> list[Part]:
        """What lies at the other end of a redirect: an absolute path in `lowers`, or a name beside."""
        if not redirect.startswith(b"/"):
            return self.lower_parts(siblings, redirect)
        parts: list[Part] = [(lower, Found(lower.root(), stat.S_IFDIR, 1)) for lower in lowers]
        for name in redirect.strip(b"/").split(b"/"):
            parts = self.lower_parts(parts, name)
            if not parts or not stat.S_ISDIR(parts[0][1].mode):
                return []
        return parts

    def lower_parts(self, parents: list[Part], name: bytes) -> list[Part]:
        """What the lower trees have under a name, topmost first: one thing, or the directories that merge."""
        found_parts: list[Part] = []
        for at, (lower, directory) in enumerate(parents):
            found = lower.find(directory.handle, name)
            if found is None:
                continue
            if found.whiteout:
                break
            is_dir = stat.S_ISDIR(found.mode)
            if found_parts and not is_dir:
                break
            found_parts.append((lower, found))
            if not is_dir:
                break
            marks = lower.marks(found.handle)
            if marks is PLAIN:
                continue
            if marks.opaque:
                break
            if marks.redirect is not None:
                below = [part[0] for part in parents[at + 1 :]]
                if marks.redirect.startswith(b"/"):
                    below = self._lowers[self._places[id(lower)] + 1 :]
                rest = self._redirected(marks.redirect, parents[at + 1 :], below)
                found_parts += [part for part in rest if stat.S_ISDIR(part[1].mode)]
                break
        return found_parts

    def _lower_node(self, parent: Node, name: bytes, parts: list[Part]) -> Node:
        is_dir = stat.S_ISDIR(parts[0][1].mode)
        node = None if is_dir else self.table.find_lower(parts[0])
        if node is not None:
            self.table.add_name(node, parent, name)
            return node
        node = self.table.add(self.number(parts[0]), parts[0][1].mode, parent, name)
        self.table.set_lowers(node, parts)
        return node

    def number(self, part: Part) -> int:
        """The inode number of a lower object."""
        lower, found = part
        return (found.key & _NUMBER_MASK) + self._places[id(lower)] * _LOWER_STEP

    @staticmethod
    def upper_number(upper_ino: int) -> int:
        """The inode number of what is new in the upper directory."""
        return _UPPER + upper_ino

    def attributes(self, node: Node) -> Attributes:
        """What stat shows of a node."""
        if node.upper and self._upper:
            info = self._upper.stat(node)
            shown = attributes_of(info)
            return _merged(shown) if node.is_dir and node.lowers and not node.is_orphan else shown
        lower, found = node.lowers[0]
        shown = lower.attributes(found.handle)
        if node.is_orphan:
            return replace(shown, nlink=0)
        if len(node.lowers) > 1:
            return _merged(shown)
        return _fewer_links(shown, node.removed) if node.removed else shown

    def list(self, node: Node) -> list[tuple[bytes, int, int]]:
        """(name, number, mode) of a directory's names, in no order; the number is a guess until it is looked up."""
        names: dict[bytes, tuple[int, int]] = {}
        hidden: set[bytes] = set()
        if node.upper and self._upper:
            for name, number, mode, whiteout in self._upper.entries(node):
                if whiteout:
                    hidden.add(name)
                else:
                    names[name] = _UPPER + number, mode
        for lower, directory in node.lowers:
            gone = []
            for name, found in lower.entries(directory.handle):
                if found.whiteout:
                    gone.append(name)
                elif name not in hidden and name not in names:
                    names[name] = self.number((lower, found)), found.mode
            hidden.update(gone)
        known = node.children
        return [
            (name, known[name].ino if name in known else number, mode)
            for name, (number, mode) in names.items()
            if not name.startswith(WHITEOUT_PREFIX)
        ]

    def is_empty(self, node: Node) -> bool:
        """Whether a directory shows nothing."""
        return not self.list(node)

    def walk(self, path: bytes) -> Node | None:
        """The node at a path below the root, symbolic links not followed."""
        node: Node | None = self.root
        for name in path.split(b"/"):
            if node is None or not node.is_dir:
                return None
            node = self.find(node, name)
        return node


def _merged(shown: Attributes) -> Attributes:
    """Nobody counts the subdirectories of a merged directory: 1 says so (as overlayfs does)."""
    return replace(shown, nlink=1)


def _fewer_links(shown: Attributes, removed: int) -> Attributes:
    return replace(shown, nlink=max(shown.nlink - removed, 0))
