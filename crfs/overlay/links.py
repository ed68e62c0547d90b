"""The names of lower files: where they show in the overlay, and how many are left. The overlay's lock is held.

A lower file of several names is one inode: what is done to it through one name shows through the others, also where
directories on the way to them were moved, and nobody has looked them up. What is left of the names is counted while
names go; for an upper directory that was not empty to begin with, it is looked up once for each file that is asked.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from crfs.overlay.attributes import Attributes
from crfs.overlay.lower import Lower
from crfs.overlay.moves import Move, find_moves, moved
from crfs.overlay.node import Node, Part, Place, lower_key


class _Finder(Protocol):
    """The part of a lookup that is needed here (crfs.overlay.lookup)."""

    def find(self, parent: Node, name: bytes) -> Node | None: ...

    def walk(self, path: bytes) -> Node | None: ...

    def lower_at(self, path: bytes) -> Part | None: ...


class Links:
    """`upper_fd`: the upper directory; None where there is none."""

    def __init__(
        self, finder: _Finder, lowers: Sequence[Lower], upper_fd: int | None, *, fresh: bool
    ) -> None:
        """`fresh`: the upper directory is empty."""
        self._finder = finder
        self._lowers = list(lowers)
        self._upper_fd = upper_fd
        self._fresh = fresh
        self._removed: dict[tuple[int, int], int] = {}
        # when this mount took the last one away
        self._removed_ns: dict[tuple[int, int], int] = {}
        # None where it has to be looked for
        self._upper_moves: list[Move] | None = [] if fresh else None

    def forget_moves(self) -> None:
        """A directory was moved."""
        self._upper_moves = None

    def places(self, node: Node) -> list[Place]:
        """All names of a lower file that show, those that nobody has looked up included."""
        lower, found = node.lowers[0]
        if found.nlink > 1 and not node.is_dir:
            paths = set(lower.names(found.key))
            self._meet(paths)
            if len(node.names) < found.nlink - self._removed.get(lower_key(node.lowers[0]), 0):
                self._meet(self._in_overlay(self._in_stack(lower, paths)))
        return node.names

    def removed(self, node: Node) -> int:
        """How many names a lower file has lost to the upper directory."""
        key = lower_key(node.lowers[0])
        if key not in self._removed:
            self._removed[key] = 0 if self._fresh else self._look_up_removed(node)
        return self._removed[key]

    def shown(self, node: Node, attributes: Attributes) -> Attributes:
        """The attributes of a lower file of several names, less those that are gone."""
        ctime_ns = self._removed_ns.get(lower_key(node.lowers[0]), attributes.ctime_ns)
        return replace(attributes, nlink=max(attributes.nlink - self.removed(node), 0), ctime_ns=ctime_ns)

    def count_removed(self, node: Node) -> None:
        """A file has lost a name. Where nobody knows how many it had, it is not counted but looked up, if at all."""
        if node.upper or node.is_dir or node.lowers[0][1].nlink < 2:
            return
        key = lower_key(node.lowers[0])
        self._removed_ns[key] = time.time_ns()
        if self._fresh or key in self._removed:
            self._removed[key] = self._removed.get(key, 0) + 1

    def places_of(self, lower: Lower, key: int) -> list[Place]:
        """All names that show the lower file of a key."""
        found: list[Place] = []
        for path in self._in_overlay(self._in_stack(lower, set(lower.names(key)))):
            node = self._meet_one(path)
            if node is not None and not node.upper and lower_key(node.lowers[0]) == (id(lower), key):
                found += [place for place in node.names if place not in found]
        return found

    def _look_up_removed(self, node: Node) -> int:
        part = node.lowers[0]
        if len(self.places(node)) >= part[1].nlink:
            return 0
        below = self._in_stack(part[0], set(part[0].names(part[1].key)))
        parts = [self._finder.lower_at(path) for path in below]
        had = sum(each is not None and lower_key(each) == lower_key(part) for each in parts)
        return max(had - len(self.places(node)), 0)

    def _meet(self, paths: Iterable[bytes]) -> None:
        for path in paths:
            self._meet_one(path)

    def _meet_one(self, path: bytes) -> Node | None:
        """Whatever is at a path now; a file learns that it has that name."""
        head, _, name = path.rpartition(b"/")
        parent = self._finder.walk(head)
        return self._finder.find(parent, name) if parent is not None and parent.is_dir else None

    def _in_stack(self, lower: Lower, paths: set[bytes]) -> set[bytes]:
        """Where the lower trees, merged, may have what one of them has at these paths."""
        for above in reversed(self._lowers[: self._lowers.index(lower)]):
            paths = moved(paths, above.moves())
        return paths

    def _in_overlay(self, paths: set[bytes]) -> set[bytes]:
        if self._upper_fd is None:
            return paths
        if self._upper_moves is None:
            self._upper_moves = find_moves(self._upper_fd)
        return moved(paths, self._upper_moves)
