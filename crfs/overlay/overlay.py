"""One overlay: a stack of lower trees under an upper and a work directory, or without them, read-only.

The composition of this floor, and what the FUSE front is handed. Any thread: the tree is changed under one lock;
bytes are read, written, synced and copied up without it.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Sequence

from crfs._native import answers
from crfs._native.listing import Listing
from crfs.errors import MountError
from crfs.overlay.alone import Alone
from crfs.overlay.attributes import Attributes
from crfs.overlay.copyup import CopyUp, clean_work
from crfs.overlay.files import Files, know_file, let_go
from crfs.overlay.lookup import Lookup, Told
from crfs.overlay.lower import DirectoryLower, GivenUp, Lower
from crfs.overlay.namespace import Namespace
from crfs.overlay.node import ROOT_INODE, Listed, Node, NodeTable, Part
from crfs.overlay.numbers import Numbers, PlainNumbers
from crfs.overlay.ownership import Owner, upper_ownership
from crfs.overlay.spec import UpperSpec
from crfs.overlay.upper import Upper, open_upper

# bytes that are copied as quickly as others are let in meanwhile
SMALL = 1 << 16


class Overlay:
    """Operations on nodes by inode number. Each OSError is what the caller of the system call is told.

    `is_local`: nothing is waited for but disks.
    """

    def __init__(
        self, lowers: Sequence[Lower], spec: UpperSpec | None, number_bits: int | None = None
    ) -> None:
        """Open the directories of `spec`; OSError. `lowers` topmost first.

        With `number_bits` inode numbers are those on disk, cut to so many bits, as far as these differ; else they
        are the same in each mount, and differ from each other over any number of file systems.
        """
        self._lock = threading.RLock()
        self._root = Node(ROOT_INODE, stat.S_IFDIR, None, None)
        self._table = NodeTable(self._root)
        self._upper = None if spec is None else _open_upper(spec, lowers, self._root)
        numbers = PlainNumbers(lowers, number_bits) if number_bits else Numbers(lowers)
        self._lookup = Lookup(lowers, self._upper, self._root, self._table, numbers)
        self._names: Namespace | None = None
        self._copy_up: CopyUp | None = None
        if spec is not None and self._upper is not None:
            self._copy_up = copy_up = CopyUp(self._lookup, self._upper, self._table)
            if spec.fresh:
                copy_up.root()
            self._names = Namespace(self._lookup, copy_up, self._upper, self._table, redirects=spec.redirects)
        self.is_local = all(lower.is_local for lower in lowers)
        # whether what is new is numbered as Numbers does it
        self.numbers_are_own = not number_bits
        # whether fsync() is of any use
        self.syncs = spec is not None and not spec.volatile
        self.files = Files(self._lock, self._lookup, self._upper, self._copy_up, self._table)

    @property
    def is_writable(self) -> bool:
        """Whether there is an upper directory."""
        return self._upper is not None

    @property
    def is_plain(self) -> bool:
        """Whether what is only in the upper directory is there as it is shown."""
        return self._upper is not None and self._upper.ownership.is_plain

    def leave_files(self) -> None:
        """From now on lower files may be left to who answers without us (Lookup.leave()), who asks for directories."""
        if self._upper is not None:
            self._upper.leave_copies()
            answers.serve_changes(self._open_directory)

    def _open_directory(self, ino: int) -> bool:
        with self._lock:
            node = self._table.numbers.get(ino)
            if node is None or not node.is_dir or node.is_orphan or not self._upper or not self._copy_up:
                return False
            self._copy_up.directory(node)
            self._upper.dir_fd(node)
            self._upper.know_directory(node)
            return True

    def close(self) -> None:
        """Let go of the upper directory; what is staged in the work directory is removed."""
        with self._lock:
            if self._upper is not None:
                self._upper.close()
                self._upper = None

    @property
    def _namespace(self) -> Namespace:
        if self._names is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._names

    def node(self, ino: int) -> Node:
        """The node that the kernel calls `ino`; ESTALE where there is none."""
        node = self._table.find(ino)
        if node is None:
            with self._lock:
                node = self._lookup.node(ino)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def is_near(self, node: Node) -> bool:
        """Whether nobody has to wait for long while a node is copied up: it is, or is small and on this machine."""
        return (node.upper and node.data is None) or (
            self.is_local and (not node.is_file or node.size <= SMALL)
        )

    def lookup(self, parent: int, name: bytes) -> Told | None:
        """What a name leads to, counted as one reference of the kernel's; None where nothing is there."""
        with self._lock:
            above = self.node(parent)
            if name == b".." or name == b".":
                return self._referenced(above.parent or self._root if name == b".." else above)
            return self._told(self._lookup.look_up(above, name))

    def _told(self, found: Node | Told | None) -> Told | None:
        return self._referenced(found) if isinstance(found, Node) else found

    def _referenced(self, node: Node) -> Told:
        shown = self._lookup.attributes(node)
        node.nlookup += 1
        node.size = shown.size
        return node.ino, shown

    def forget(self, ino: int, count: int) -> None:
        """The kernel drops references."""
        with self._lock, contextlib.suppress(OSError):
            node = self.node(ino)
            node.nlookup = max(node.nlookup - count, 0)
            self._drop(node)

    def _drop(self, node: Node) -> None:
        for gone in self._table.drop(node):
            if gone.is_dir and gone.upper and self._upper is not None:
                self._upper.let_go(gone)
            let_go(gone)

    def parent(self, ino: int) -> int:
        """The number of a directory's parent."""
        with self._lock:
            return (self.node(ino).parent or self._root).ino

    def unchanged(self) -> threading.RLock:
        """Names stay what they are for as long as this is held."""
        return self._lock

    def lookup_listed(self, parent: int, name: bytes, part: Part | None, changes: int) -> Told | None:
        """The same as lookup(), where list() has just said `part` of a name (see Lookup.leave())."""
        with self._lock:
            return self._told(self._lookup.look_up_listed(self.node(parent), name, part, changes))

    def lookup_alone(self, parent: int, listed: Listed, changes: int) -> Told | None:
        """The same, where listed_alone() has just said it."""
        with self._lock:
            return self._told(self._lookup.look_up_alone(self.node(parent), listed, changes))

    def read_alone(self, ino: int) -> Alone | None:
        """A directory's names, where one lower directory alone has them; None where list() is to be asked."""
        with self._lock:
            return self._lookup.read_alone(self.node(ino))

    def listed_alone(self, ino: int, alone: Alone, at: int) -> Listed | None:
        """One of these; None where it is not shown."""
        with self._lock:
            return alone.listed(self.node(ino), at)

    def put_files(self, ino: int, alone: Alone, listing: Listing, at: int, before: int, changes: int) -> int:
        """Tell of files among them without more ado (LowerNames.put_files())."""
        with self._lock:
            return alone.put_files(self.node(ino), listing, at, before, changes)

    def list(self, ino: int) -> list[Listed]:
        """A directory's names."""
        with self._lock:
            node = self.node(ino)
            if node.is_orphan:
                return []
            return self._lookup.list(node)

    def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> Told:
        """A new regular file, with one handle and one reference of the kernel's."""
        with self._lock:
            above = self.node(parent)
            node = self._namespace.create(above, name, mode, owner)
            node.opens += 1
            know_file(node)
            return self._referenced(node)

    def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Told:
        """A new directory."""
        with self._lock:
            above = self.node(parent)
            return self._referenced(self._namespace.mkdir(above, name, mode, owner))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Told:
        """A new fifo, socket, device or file."""
        with self._lock:
            above = self.node(parent)
            return self._referenced(self._namespace.mknod(above, name, mode, rdev, owner))

    def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Told:
        """A new symbolic link."""
        with self._lock:
            above = self.node(parent)
            return self._referenced(self._namespace.symlink(above, name, target, owner))

    def link(self, ino: int, parent: int, name: bytes, given_up: GivenUp) -> Told:
        """One more name for a file."""
        self.files.copy_up(self.node(ino), given_up)
        with self._lock:
            above = self.node(parent)
            node = self.node(ino)
            self._namespace.link(node, above, name)
            return self._referenced(node)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of what is no directory."""
        with self._lock:
            above = self.node(parent)
            self._namespace.unlink(above, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        with self._lock:
            above = self.node(parent)
            self._namespace.rmdir(above, name)

    def rename(self, old_parent: int, old: bytes, new_parent: int, new: bytes, given_up: GivenUp) -> None:
        """Move a name."""
        with self._lock:
            node = self._lookup.find(self.node(old_parent), old)
        if node is not None:
            self._namespace.check_movable(node)
        if node is not None and node.is_file:
            self.files.copy_up(node, given_up)
        elif node is not None and node.is_dir and node.lowers and self._upper and not self._upper.redirects:
            self._copy_up_below(node, given_up)
        with self._lock:
            above = self.node(old_parent)
            self._namespace.rename(above, old, self.node(new_parent), new)

    def _copy_up_below(self, directory: Node, given_up: GivenUp) -> None:
        """All that a directory shows is in the upper one afterwards."""
        self.files.copy_up(directory, given_up)
        merged = [directory.ino]
        try:
            for ino in merged:
                for name, _, _, _ in self.list(ino):
                    found = self._copy_up_name(ino, name, given_up)
                    if found is not None:
                        merged.append(found.ino)
        finally:
            for ino in reversed(merged[1:]):
                self.forget(ino, 1)

    def _copy_up_name(self, parent: int, name: bytes, given_up: GivenUp) -> Node | None:
        """Copy up what a name leads to. If it is a merged directory, it is returned, and referred to."""
        with self._lock:
            node = self._lookup.find(self.node(parent), name)
            if node is None:
                return None
            node.nlookup += 1
        try:
            self.files.copy_up(node, given_up)
            if node.is_dir and node.lowers:
                node.nlookup += 1
                return node
            return None
        finally:
            self.forget(node.ino, 1)

    def release(self, node: Node) -> None:
        """One handle of a file fewer."""
        with self._lock:
            self.files.release(node)
            self._drop(node)

    def statvfs(self) -> os.statvfs_result | None:
        """Of the upper directory's file system; None where there is none."""
        with self._lock:
            return None if self._upper is None else os.fstatvfs(self._upper.fd)


def _open_upper(spec: UpperSpec, lowers: Sequence[Lower], root: Node) -> Upper:
    upper = open_upper(spec.upperdir, spec.workdir, root, userxattr=spec.userxattr)
    upper.ownership = upper_ownership(
        upper.fd, spec.permissions, _recorded_root(lowers), squashed=spec.squashed
    )
    clean_work(upper, lowers)
    return upper


def _recorded_root(lowers: Sequence[Lower]) -> Attributes | None:
    """The root's attributes, of the topmost lower directory that has them recorded."""
    recorded = (lower for lower in lowers if isinstance(lower, DirectoryLower) and lower.is_recorded)
    return next((lower.attributes(lower.root()) for lower in recorded), None)


def check_directories(spec: UpperSpec, lowers: Sequence[bytes]) -> None:
    """MountError, naming the directory, where upper, work and lower directories do not go together."""
    for path in (spec.upperdir, spec.workdir, *lowers):
        if not os.path.isdir(path):
            raise MountError(f"{os.fsdecode(path)}: no such directory")
    upper, work = os.path.realpath(spec.upperdir), os.path.realpath(spec.workdir)
    if os.stat(upper).st_dev != os.stat(work).st_dev:
        raise MountError(f"{os.fsdecode(work)}: upper and work directory must be on one file system")
    if _holds(upper, work) or _holds(work, upper):
        raise MountError(f"{os.fsdecode(work)}: upper and work directory must lie apart")
    for lower in map(os.path.realpath, lowers):
        for kind, path in (("upper", upper), ("work", work)):
            if _holds(lower, path) or _holds(path, lower):
                raise MountError(
                    f"{os.fsdecode(path)}: the {kind} directory lies in the lower one {os.fsdecode(lower)}"
                )
    for path in (upper, work):
        if not os.access(path, os.W_OK | os.X_OK):
            raise MountError(f"{os.fsdecode(path)}: can't be written to")


def _holds(outer: bytes, inner: bytes) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")
