"""What a name means: the upper directory first, then each lower tree, as overlayfs looks things up.

The overlay's lock is held by whoever calls. Nothing is changed here, on disk or below.
"""

import enum
import errno
import os
import stat
from collections.abc import Sequence

from msgspec.structs import replace

from crfs._native import answers
from crfs._native.status import Status, are_hidden, find_status
from crfs.overlay.alone import Alone, find_alone
from crfs.overlay.attributes import Attributes
from crfs.overlay.links import Links
from crfs.overlay.lower import DirectoryLower, Found, Lower
from crfs.overlay.marks import (
    OPAQUE_NAME,
    PLAIN,
    PLAIN_FILE,
    WHITEOUT_PREFIX,
    DirMarks,
    FileMarks,
    is_whiteout,
    read_marks,
)
from crfs.overlay.node import Listed, Node, NodeTable, Part, origin_of
from crfs.overlay.numbers import Numbers
from crfs.overlay.upper import Upper

# a number, and what stat shows of what it is of
Told = tuple[int, Attributes]


class _Says(enum.Enum):
    NOTHING_IS_THERE = enum.auto()


class Lookup:
    """Finds nodes. `lowers` topmost first; `upper` None where the overlay is read-only."""

    def __init__(
        self, lowers: Sequence[Lower], upper: Upper | None, root: Node, table: NodeTable, numbers: Numbers
    ) -> None:
        self.root = root
        self.table = table
        self._upper = upper
        self._lowers = list(lowers)
        self._numbers = numbers
        self.links = Links(self, lowers, upper.fd if upper else None, fresh=upper is None or upper.is_empty())
        root.upper = upper is not None
        root.lowers = self._roots(self._lowers)
        root.mode = self.attributes(root).mode

    def find(self, parent: Node, name: bytes) -> Node | None:
        """The node that a directory has under a name. OSError where a tree can't be read."""
        found, parts = self._find(parent, name)
        return self._lower_node(parent, name, parts) if parts else found

    def look_up(self, parent: Node, name: bytes) -> "Node | Told | None":
        """The same, but that a file may be left to those who answer without us (leave())."""
        found, parts = self._find(parent, name)
        if not parts:
            return found
        told = self.leave(parent, name, parts[0], answers.changed_lower()) if len(parts) == 1 else None
        return told or self._lower_node(parent, name, parts)

    def _find(self, parent: Node, name: bytes) -> tuple[Node | None, list[Part]]:
        """A node that there is, or is in the upper directory; or what lower trees have that there is no node of."""
        known = parent.children.get(name) or self._take_named(parent, name)
        if known is not None:
            return known, []
        if parent.is_orphan:
            return None, []
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if parent.upper and self._upper:
            found = self._find_upper(parent, name)
            if isinstance(found, _Says):
                return None, []
            if found is not None:
                return found, []
        return None, self.lower_parts(parent.lowers, name)

    def leave(self, parent: Node, name: bytes, part: Part, changes: int) -> "Told | None":
        """Leave a lower file to crfs._native.answers, where that can be: its number, and what stat shows.

        It counts as one reference of the kernel's. `part` is all that the stack has under the name, as it was when
        answers.changed_lower() said `changes`.
        """
        lower, found = part
        shown, number = found.shown, self._numbers.lower(part)
        if not isinstance(lower, DirectoryLower) or not stat.S_ISREG(found.mode) or found.nlink != 1:
            return None
        # of a file without blocks the bytes may be elsewhere
        if shown is None or (shown.size and not shown.blocks) or self.table.has(number):
            return None
        fd, path = lower.reach(found.handle)
        if path != found.handle:
            return None
        mark, place = self._numbers.origin(number), self._numbers.place(lower)
        left = answers.leave_to_us(number, parent.ino, name, place, fd, path, mark, changes)
        return (number, shown) if left else None

    def node(self, ino: int) -> Node | None:
        """The node that the kernel calls `ino`, also if others have answered for it until now."""
        return self.table.find(ino) or self._take_lower(ino)

    def _take_named(self, parent: Node, name: bytes) -> Node | None:
        ino = answers.number_at(parent.ino, name)
        if ino:
            self.node(ino)
        # it may have been removed in between
        return parent.children.get(name)

    def _take_lower(self, ino: int) -> Node | None:
        """The node of a lower file that was left to others."""
        taken = answers.take_lower(ino)
        if taken is None:
            return None
        parent_ino, name, place, path, nlookup = taken
        parent = self.table.find(parent_ino)
        node = None
        if name is None:
            node = self._nameless(ino, self._lowers[place], path)
        elif parent is not None:
            node = self.find(parent, name)
        if node is None or node.ino != ino:
            return None
        node.nlookup += nlookup
        return node

    def _nameless(self, ino: int, lower: Lower, path: bytes) -> Node | None:
        head, _, name = path.rpartition(b"/")
        found = lower.find(head, name)
        # nobody can tell any more where other bytes would be
        if found is None or lower.file_marks(path).metacopy:
            return None
        return self.table.add_nameless(ino, found.mode, (lower, found))

    def _find_upper(self, parent: Node, name: bytes) -> "Node | _Says | None":
        """The upper's node; None where it does not say what a name means."""
        assert self._upper is not None
        fd = self._upper.dir_fd(parent)
        info = find_status(fd, name)
        if info is None:
            return _Says.NOTHING_IS_THERE if self._upper.has_aufs_whiteout(fd, name) else None
        if is_whiteout(info):
            return _Says.NOTHING_IS_THERE
        mode = self._upper.mode_at(fd, name, info)
        if not stat.S_ISDIR(mode):
            return self._upper_file(parent, name, info, mode)
        marks, parts = self._merged_with(parent, name)
        number = self._numbers.lower(parts[0]) if parts else self._upper_number(parent, name, info.st_ino)
        node = self._add(number, mode, parent, name)
        self.table.set_upper(node, info.st_ino)
        node.impure = marks.impure
        if parts:
            self.table.set_lowers(node, parts)
        if marks.redirect is not None:
            absolute = marks.redirect.startswith(b"/")
            node.redirect = marks.redirect if absolute else origin_of(parent) + b"/" + marks.redirect
        return node

    def _add(self, number: int, mode: int, parent: Node, name: bytes) -> Node:
        return self.table.add(number, self._numbers.spare, mode, parent, name)

    def _upper_file(self, parent: Node, name: bytes, info: Status, mode: int) -> Node:
        ino = info.st_ino
        node = self.table.find_upper(ino)
        if node is not None:
            self.table.add_name(node, parent, name)
            return node
        # whoever else has written here does not say of directories what we do
        marks = self._file_marks(parent, name, linked=info.st_nlink > 1)
        number = self._number_of(ino, marks)
        data = self._data_below(parent, name, marks) if marks.metacopy and stat.S_ISREG(mode) else None
        node = self._add(number, mode, parent, name)
        node.data = data
        self.table.set_upper(node, ino)
        if node.ino != number:
            self.table.remember(node)
        return node

    def _file_marks(self, parent: Node, name: bytes, *, linked: bool = False) -> FileMarks:
        """The marks of what is in the upper directory, and not merged: it may have been copied up.

        Where it is `linked` elsewhere too, it has the same number by any of its names.
        """
        if self._upper is None or not (parent.lowers or parent.impure or linked):
            return PLAIN_FILE
        return self._upper.file_marks(self._upper.dir_fd(parent), name)

    def _number_of(self, ino: int, marks: FileMarks) -> int:
        number = self.table.number_of(ino)
        if number is None and marks.number is not None:
            number = self._numbers.origin_number(marks.number)
        return self._numbers.upper(ino) if number is None else number

    def _upper_number(self, parent: Node, name: bytes, ino: int) -> int:
        """What is called that is in the upper directory, and not merged."""
        return self._number_of(ino, self._file_marks(parent, name))

    def _data_below(self, parent: Node, name: bytes, marks: FileMarks) -> Part:
        """What has the bytes of a file whose metadata alone is in the upper directory. EIO where nothing has."""
        parts = self._with_redirect(parent.lowers, name, marks.redirect, self._lowers)
        if not _is_file(parts):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return parts[-1]

    def _with_redirect(
        self, siblings: list[Part], name: bytes, redirect: bytes | None, lowers: list[Lower]
    ) -> list[Part]:
        """What lies under a name beside, or at the other end of a redirect: a path in `lowers`, or a name beside."""
        if redirect is None or not redirect.startswith(b"/"):
            return self.lower_parts(siblings, redirect or name)
        return self._lower_walk(redirect.strip(b"/"), lowers)

    def _merged_with(self, parent: Node, name: bytes) -> tuple[DirMarks, list[Part]]:
        """The marks of an upper directory, and the lower ones that it is merged with."""
        assert self._upper is not None
        fd = self._upper.dir_fd(parent)
        marks = read_marks(b"/proc/self/fd/%d/%s" % (fd, name)) if self._lowers else PLAIN
        if not self._lowers or marks.opaque or self._upper.has_entry(fd, name + b"/" + OPAQUE_NAME):
            return marks, []
        parts = self._with_redirect(parent.lowers, name, marks.redirect, self._lowers)
        return marks, parts if parts and stat.S_ISDIR(parts[0][1].mode) else []

    @staticmethod
    def _roots(lowers: Sequence[Lower]) -> list[Part]:
        return [(lower, Found(lower.root(), stat.S_IFDIR, 1)) for lower in lowers]

    def _lower_walk(self, path: bytes, lowers: Sequence[Lower]) -> list[Part]:
        """What lower trees, merged, have at a path."""
        parts = self._roots(lowers)
        for name in path.split(b"/"):
            if not parts or not stat.S_ISDIR(parts[0][1].mode):
                return []
            parts = self.lower_parts(parts, name)
        return parts

    def lower_at(self, path: bytes) -> Part | None:
        """What the lower trees show at a path."""
        parts = self._lower_walk(path, self._lowers)
        return parts[0] if parts else None

    def is_below(self, node: Node, parent: Node, name: bytes) -> bool:
        """Whether the lower trees have something under a node's name."""
        # where else could it come from
        return not node.upper or self.has_below(parent, name)

    def has_below(self, parent: Node, name: bytes) -> bool:
        """Whether a directory's lower parts show something under a name."""
        for lower, directory in parent.lowers:
            found = lower.find(directory.handle, name)
            if found is not None:
                return not found.whiteout
        return False

    def lower_parts(self, parents: list[Part], name: bytes) -> list[Part]:
        """What the lower trees have under a name, topmost first: one thing, or the directories that merge.

        A file whose bytes lie further down comes with what has them, last.
        """
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
            if not is_dir:
                return self._with_data((lower, found), parents, name)
            found_parts.append((lower, found))
            rest = self._rest(found_parts[-1], parents, at, name)
            if rest is not None:
                return found_parts + rest
        return found_parts

    def _rest(self, part: Part, parents: list[Part], at: int, name: bytes) -> list[Part] | None:
        """The directories that merge with a lower one of `parents[at]`, if that says so itself."""
        lower, found = part
        if lower is self._lowers[-1]:
            return []
        marks = lower.marks(found.handle)
        if marks.opaque:
            return []
        if marks.redirect is None:
            return None
        rest = self._with_redirect(parents[at + 1 :], name, marks.redirect, self._below(lower))
        return [each for each in rest if stat.S_ISDIR(each[1].mode)]

    def _with_data(self, part: Part, parents: list[Part], name: bytes) -> list[Part]:
        """What is no directory, and what has its bytes if it has not."""
        lower, found = part
        if not stat.S_ISREG(found.mode) or lower is self._lowers[-1]:
            return [part]
        below = [parent for parent in parents if self._numbers.place(parent[0]) > self._numbers.place(lower)]
        return [part, *self._lower_data(part, below, name)]

    def _below(self, lower: Lower) -> list[Lower]:
        return self._lowers[self._numbers.place(lower) + 1 :]

    def _lower_data(self, part: Part, siblings: list[Part], name: bytes) -> list[Part]:
        """What has the bytes of a lower file, if it has not itself. EIO where nothing has."""
        lower, found = part
        marks = lower.file_marks(found.handle)
        if not marks.metacopy:
            return []
        parts = self._with_redirect(siblings, name, marks.redirect, self._below(lower))
        if not _is_file(parts):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return parts

    def _lower_node(self, parent: Node, name: bytes, parts: list[Part]) -> Node:
        is_dir = stat.S_ISDIR(parts[0][1].mode)
        number = self._numbers.lower(parts[0])
        node = None if is_dir else self.table.find_lower(parts[0]) or self._take_lower(number)
        if node is not None:
            self.table.add_name(node, parent, name)
            return node
        node = self._add(number, parts[0][1].mode, parent, name)
        self.table.set_lowers(node, parts)
        return node

    def add_new(self, ino: int, mode: int, parent: Node, name: bytes) -> Node:
        """The node of what was just made in the upper directory."""
        number = self._numbers.upper(ino)
        node = self._add(number, mode, parent, name)
        self.table.set_upper(node, ino)
        if node.ino != number and not node.is_dir:
            self.table.remember(node)
        return node

    def number_mark(self, node: Node) -> bytes:
        """What marks the copy of a node as one that keeps the node's number."""
        return self._numbers.origin(node.ino)

    def lower_of_mark(self, mark: bytes) -> tuple[Lower, int] | None:
        """The lower tree, and the key in it, of what a copy was made of."""
        number = self._numbers.origin_number(mark)
        return None if number is None else self._numbers.lower_of(number)

    def is_from_below(self, node: Node) -> bool:
        """Whether what is in the upper directory has a number that is not its own there."""
        return node.ino != self._numbers.upper(node.upper_ino)

    def attributes(self, node: Node) -> Attributes:
        """What stat shows of a node."""
        if node.upper and self._upper:
            shown = self._upper.attributes(node)
            if node.data is not None:
                return _with_blocks(shown, node.data)
            return _merged(shown) if node.is_dir and node.lowers and not node.is_orphan else shown
        lower, found = node.lowers[0]
        shown = found.shown or lower.attributes(found.handle)
        if node.is_file and len(node.lowers) > 1:
            shown = _with_blocks(shown, node.lowers[-1])
        if found.nlink > 1 and not node.is_dir:
            return self.links.shown(node, shown)
        if node.is_orphan:
            return replace(shown, nlink=0)
        return _merged(shown) if len(node.lowers) > 1 and node.is_dir else shown

    def list(self, node: Node) -> list[Listed]:
        """A directory's names, in no order."""
        names: dict[bytes, tuple[int, int, Part | None]] = {}
        hidden: set[bytes] = set()
        if node.upper and self._upper:
            for name, number, mode, whiteout in self._upper.entries(node):
                if whiteout:
                    hidden.add(name)
                elif name not in node.children:
                    names[name] = self._listed_number(node, name, number, mode), mode, None
                else:
                    names[name] = 0, mode, None
        for lower, directory in node.lowers:
            gone = []
            for name, found in lower.entries(directory.handle, hidden | names.keys()):
                if found.whiteout:
                    gone.append(name)
                else:
                    names[name] = self._numbers.lower((lower, found)), found.mode, (lower, found)
            hidden.update(gone)
        known = node.children
        return [
            (name, known[name].ino if name in known else number, mode, part)
            for name, (number, mode, part) in names.items()
            if not name.startswith(WHITEOUT_PREFIX)
        ]

    def read_alone(self, node: Node) -> Alone | None:
        """What a directory holds, where one lower directory alone has it; None where others may."""
        if len(node.lowers) != 1 or node.is_orphan:
            return None
        if node.upper and self._upper and self._upper.entries(node):
            return None
        return find_alone(node.lowers[0], self._numbers, self.table.numbers)

    def look_up_alone(self, parent: Node, listed: Listed, changes: int) -> "Node | Told | None":
        """What look_up() finds of what Alone.listed() has just said."""
        name, _, mode, part = listed
        if part is None or not stat.S_ISDIR(mode):
            return self.look_up_listed(parent, name, part, changes)
        known = parent.children.get(name)
        if known is not None:
            return known
        return self._lower_node(parent, name, [part, *(self._rest(part, [], 0, name) or [])])

    def look_up_listed(
        self, parent: Node, name: bytes, part: Part | None, changes: int
    ) -> "Node | Told | None":
        """What look_up() finds, where `part` is what list() has said of a name since there have been `changes`."""
        if part is None or part[1].shown is None or stat.S_ISDIR(part[1].mode) or name in parent.children:
            return self.look_up(parent, name)
        told = self.leave(parent, name, part, changes)
        if told is not None:
            return told
        # in that order: what is not left to others does not change any more
        if answers.number_at(parent.ino, name) or answers.changed_lower() != changes:
            return self.find(parent, name)
        return self._lower_node(parent, name, self._with_data(part, parent.lowers, name))

    def _listed_number(self, parent: Node, name: bytes, ino: int, mode: int) -> int:
        """The number that an upper object will have once it is looked up."""
        if not parent.lowers and not parent.impure:
            return self._numbers.upper(ino)
        if not stat.S_ISDIR(mode):
            return self._upper_number(parent, name, ino)
        _, parts = self._merged_with(parent, name)
        return self._numbers.lower(parts[0]) if parts else self._upper_number(parent, name, ino)

    def is_empty(self, node: Node) -> bool:
        """Whether a directory shows nothing."""
        if node.upper and self._upper and len(node.lowers) == 1:
            lower, found = node.lowers[0]
            # as where all has been removed
            if isinstance(lower, DirectoryLower) and are_hidden(
                *lower.reach(found.handle), self._upper.dir_fd(node)
            ):
                return True
        return not self.list(node)

    def walk(self, path: bytes) -> Node | None:
        """The node at a path below the root, symbolic links not followed."""
        node: Node | None = self.root
        for name in path.split(b"/") if path else ():
            if node is None or not node.is_dir:
                return None
            node = self.find(node, name)
        return node


def _is_file(parts: list[Part]) -> bool:
    return bool(parts) and stat.S_ISREG(parts[0][1].mode)


def _with_blocks(shown: Attributes, part: Part) -> Attributes:
    """What has its bytes elsewhere takes up the space there."""
    lower, found = part
    return replace(shown, blocks=lower.attributes(found.handle).blocks)


def _merged(shown: Attributes) -> Attributes:
    """Nobody counts the subdirectories of a merged directory: 1 says so (as overlayfs does)."""
    return replace(shown, nlink=1)
