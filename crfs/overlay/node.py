"""Inodes of an overlay in memory, and the table of them. The overlay's lock is held by whoever calls.

A node is one object of the merged tree, whatever directories of the stack it lives in at the moment: an open file
and all names of it share one node, so that a copy-up shows through each of them.
"""

import stat
from collections.abc import Callable, Iterator

from crfs._native import answers
from crfs.overlay.lower import Found, Lower, OpenLower

# a lower object: which lower tree, and what it is there
Part = tuple[Lower, Found]
# a name, its number and mode, and what a lower tree has under it where that is all that it means
Listed = tuple[bytes, int, int, Part | None]
# a name, and the directory that has it
Place = tuple["Node", bytes]

ROOT_INODE = 1


class Node:
    """One inode. `parent` and `name` are one of its names; both are None once it has none left.

    `others` are the further names of a file that have been met.
    `upper`: it exists in the upper directory, there under `name` in the parent's. `lowers`: what it is made of
    below, topmost first; several for a directory, or for a file that has its bytes in the last of them. `data`: what
    has the bytes of an upper file that does not have them itself. `impure`: an upper directory without lower parts
    holds something that has its number from below.
    """

    __slots__ = (
        "children",
        "data",
        "held_fd",
        "impure",
        "ino",
        "is_dir",
        "is_file",
        "lower_file",
        "lowers",
        "mode",
        "name",
        "nlookup",
        "opens",
        "others",
        "parent",
        "redirect",
        "size",
        "upper",
        "upper_fd",
        "upper_ino",
        "writable_fd",
        "xattr_names",
    )

    def __init__(self, ino: int, mode: int, parent: "Node | None", name: bytes | None) -> None:
        self.ino = ino
        self.mode = mode
        # a regular one
        self.is_dir, self.is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
        self.parent = parent
        self.name = name
        self.others: list[tuple[Node, bytes]] = []
        self.upper = False
        self.upper_ino = 0
        self.lowers: list[Part] = []
        self.data: Part | None = None
        self.children: dict[bytes, Node] = {}
        self.nlookup = 0
        self.opens = 0
        self.impure = False
        # when the kernel was last told; of a lower file it stays the same
        self.size = 0
        # where a directory that was moved has its lower parts, from the root of the lower trees on
        self.redirect: bytes | None = None
        # a directory's descriptor, or an open file's
        self.upper_fd = -1
        # what leads to an upper object that has no name left (O_PATH); a directory has it in `upper_fd`
        self.held_fd = -1
        self.writable_fd = False
        self.lower_file: OpenLower | None = None
        # what listxattr last said; None where it has to be asked
        self.xattr_names: frozenset[bytes] | None = None

    @property
    def names(self) -> list[Place]:
        """All names that have been met."""
        met = [] if self.parent is None or self.name is None else [(self.parent, self.name)]
        return met + self.others

    @property
    def is_orphan(self) -> bool:
        """Whether no name leads to it any more; the root has none, and is none."""
        return self.name is None and self.ino != ROOT_INODE


class NodeTable:
    """All nodes that the kernel, an open file or a child refers to, by inode number and by what they are."""

    def __init__(self, root: Node) -> None:
        self._by_ino: dict[int, Node] = {ROOT_INODE: root}
        self._by_upper: dict[int, Node] = {}
        self._by_lower: dict[tuple[int, int], Node] = {}
        # numbers of upper files that the upper directory doesn't tell; it outlives the nodes
        self._told: dict[int, int] = {}

    def find(self, ino: int) -> Node | None:
        """The node that the kernel calls `ino`, also if the file was made without us."""
        return self._by_ino.get(ino) or self._take_over(answers.take(ino))

    def find_upper(self, upper_ino: int) -> Node | None:
        """The node of an upper file, which may be known by another name."""
        return self._by_upper.get(upper_ino)

    def _take_over(self, taken: "answers.Taken | None") -> Node | None:
        """The node of a file that was made without us."""
        if taken is None:
            return None
        ino, parent_ino, name, upper_ino, mode, nlookup, opens, fd, held_fd = taken
        node = Node(ino, mode, None, None)
        self._by_ino[ino] = node
        self.set_upper(node, upper_ino)
        if name is not None:
            self.add_name(node, self._by_ino[parent_ino], name)
        node.nlookup, node.opens = nlookup, opens
        node.upper_fd, node.writable_fd, node.held_fd = fd, fd >= 0, held_fd
        node.xattr_names = frozenset()
        if node.writable_fd:
            answers.know_file(ino, fd, True)
        return node

    def find_lower(self, part: Part) -> Node | None:
        """The node of a lower file, which may be known by another name, or be copied up."""
        return self._by_lower.get(lower_key(part))

    @property
    def numbers(self) -> dict[int, Node]:
        """All numbers that are taken."""
        return self._by_ino

    def number_of(self, upper_ino: int) -> int | None:
        """What an upper file was called before; None where it says so itself."""
        return self._told.get(upper_ino)

    def remember(self, node: Node) -> None:
        """The number of an upper file is kept here as long as it has a name: nothing on disk tells it."""
        self._told[node.upper_ino] = node.ino

    def add(self, number: int, spare: Callable[[], int], mode: int, parent: Node, name: bytes) -> Node:
        """A new node, numbered `number` or, if that is taken, a spare one."""
        while number in self._by_ino:
            number = spare()
        node = Node(number, mode, parent, name)
        self._by_ino[number] = node
        parent.children[name] = node
        return node

    def add_nameless(self, ino: int, mode: int, part: Part) -> Node:
        """The node of a lower file that has lost its name."""
        node = Node(ino, mode, None, None)
        self._by_ino[ino] = node
        self.set_lowers(node, [part])
        return node

    def has(self, ino: int) -> bool:
        """Whether a number is taken."""
        return ino in self._by_ino

    def set_upper(self, node: Node, upper_ino: int) -> None:
        """The node is in the upper directory from now on."""
        node.upper = True
        node.upper_ino = upper_ino
        if not node.is_dir:
            self._by_upper[upper_ino] = node

    def set_lowers(self, node: Node, lowers: list[Part]) -> None:
        """What the node is made of below."""
        node.lowers = lowers
        if lowers and not node.is_dir:
            self._by_lower[lower_key(lowers[0])] = node

    def add_name(self, node: Node, parent: Node, name: bytes) -> None:
        """A node has one more name, or is met by one more."""
        parent.children[name] = node
        if node.parent is None:
            node.parent, node.name = parent, name
        elif (node.parent, node.name) != (parent, name) and (parent, name) not in node.others:
            node.others.append((parent, name))

    def unname(self, node: Node, parent: Node, name: bytes) -> None:
        """A name is gone. Another one that has been met takes its place."""
        if parent.children.get(name) is node:
            del parent.children[name]
        if (parent, name) in node.others:
            node.others.remove((parent, name))
        elif node.parent is parent and node.name == name:
            node.parent, node.name = node.others.pop() if node.others else (None, None)
        if node.parent is None:
            self._told.pop(node.upper_ino, None)

    def drop(self, node: Node) -> Iterator[Node]:
        """Forget a node that nobody refers to, and then its parents; yields each, for its files to be closed."""
        while node.ino != ROOT_INODE and not (node.nlookup or node.opens or node.children):
            if node.is_dir and not answers.let_go(node.ino):
                return
            if self._by_ino.pop(node.ino, None) is None:
                return
            if self._by_upper.get(node.upper_ino) is node:
                del self._by_upper[node.upper_ino]
            if node.lowers and not node.is_dir and self._by_lower.get(lower_key(node.lowers[0])) is node:
                del self._by_lower[lower_key(node.lowers[0])]
            yield node
            for above, other in node.others:
                if above.children.get(other) is node:
                    del above.children[other]
            parent, name = node.parent, node.name
            if parent is None or name is None:
                return
            if parent.children.get(name) is node:
                del parent.children[name]
            node = parent


def lower_key(part: Part) -> tuple[int, int]:
    """What two names of one lower file have in common."""
    lower, found = part
    return id(lower), found.key


def origin_of(node: Node) -> bytes:
    """The path, from the root, at which the lower trees have what a directory is merged with: a redirect's value."""
    parts: list[bytes] = []
    while node.redirect is None and node.parent is not None and node.name is not None:
        parts.append(node.name)
        node = node.parent
    return b"/".join([node.redirect or b"", *reversed(parts)])
