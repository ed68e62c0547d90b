"""Copy-up: a lower object gets its place in the upper directory, with all that it was.

Regular files in two phases: prepare() fetches and builds a copy in the work directory with no lock held, commit()
looks again and renames it. Everything else is small and done at once. The overlay's lock is the caller's, but for
prepare().
"""

import contextlib
import os
import stat
from dataclasses import dataclass

from crfs.overlay.lookup import Lookup
from crfs.overlay.lower import Attributes, GivenUp, OpenLower
from crfs.overlay.marks import is_private
from crfs.overlay.node import Node, NodeTable
from crfs.overlay.upper import Upper

_PIECE = 1 << 20


@dataclass(slots=True)
class Prepared:
    """A copy of a file in the work directory, open for reading and writing."""

    staged: bytes
    fd: int


class CopyUp:
    """Moves nodes up. OSError, with nothing changed, where the upper directory takes no more."""

    def __init__(self, lookup: Lookup, upper: Upper, table: NodeTable) -> None:
        self._lookup = lookup
        self._upper = upper
        self._table = table

    def directory(self, node: Node) -> None:
        """A directory, and those above it, are in the upper directory afterwards."""
        if node.upper:
            return
        assert node.parent is not None
        self.directory(node.parent)
        self._small(node)

    def anything(self, node: Node) -> None:
        """A directory, symbolic link, device, fifo or socket is in the upper directory afterwards."""
        if node.upper:
            return
        assert node.parent is not None
        self.directory(node.parent)
        self._small(node)

    def _small(self, node: Node) -> None:
        shown = self._lookup.attributes(node)
        staged = self._upper.staged_name()
        work = self._upper.work_fd
        if stat.S_ISDIR(shown.mode):
            os.mkdir(staged, 0o700, dir_fd=work)
        elif stat.S_ISLNK(shown.mode):
            lower, found = node.lowers[0]
            os.symlink(lower.readlink(found.handle), staged, dir_fd=work)
        else:
            os.mknod(staged, stat.S_IFMT(shown.mode) | 0o600, shown.rdev, dir_fd=work)
        try:
            self._dress(node, staged, shown)
            self._place(node, staged)
        except OSError:
            self._upper.discard(staged)
            raise

    def _dress(self, node: Node, staged: bytes, shown: Attributes) -> None:
        """Owner, extended attributes, mode and times, in the order in which none undoes another."""
        work = self._upper.work_fd
        path = b"/proc/self/fd/%d/%s" % (work, staged)
        os.chown(staged, shown.uid, shown.gid, dir_fd=work, follow_symlinks=False)
        lower, found = node.lowers[0]
        for name, value in lower.xattrs(found.handle).items():
            if not is_private(name):
                os.setxattr(path, name, value, follow_symlinks=False)
        if not stat.S_ISLNK(shown.mode):
            os.chmod(staged, stat.S_IMODE(shown.mode), dir_fd=work)
        os.utime(staged, ns=(shown.atime_ns, shown.mtime_ns), dir_fd=work, follow_symlinks=False)

    def _place(self, node: Node, staged: bytes) -> None:
        assert node.parent is not None
        assert node.name is not None
        with self._upper.times_kept(node.parent):
            self._upper.place(staged, node.parent, node.name)
        info = os.stat(node.name, dir_fd=self._upper.dir_fd(node.parent), follow_symlinks=False)
        self._table.set_upper(node, info.st_ino)
        if not node.is_dir and info.st_nlink == 1:
            self._link_others(node)

    def _link_others(self, node: Node) -> None:
        """The other names of a lower file lead to the copy as well, also for whoever mounts this upper later."""
        lower, found = node.lowers[0]
        if lower.attributes(found.handle).nlink < 2:
            return
        for path in lower.names(found.key, found.handle):
            other = self._lookup.walk(path)
            head, _, name = path.rpartition(b"/")
            if other is not node:
                continue
            parent = self._lookup.walk(head) if head else self._lookup.root
            if parent is None or (parent is node.parent and name == node.name):
                continue
            self.directory(parent)
            with self._upper.times_kept(parent), contextlib.suppress(FileExistsError):
                self._link(node, parent, name)

    def name(self, node: Node, parent: Node, name: bytes) -> None:
        """That very name of a node that is up is in the upper directory afterwards.

        A lower file's name in a directory that was moved is not found by its lower path.
        """
        if not node.is_dir and not self._upper.has_name(parent, name):
            self.directory(parent)
            with self._upper.times_kept(parent):
                self._link(node, parent, name)

    def _link(self, node: Node, parent: Node, name: bytes) -> None:
        assert node.parent is not None
        assert node.name is not None
        os.link(
            node.name,
            name,
            src_dir_fd=self._upper.dir_fd(node.parent),
            dst_dir_fd=self._upper.dir_fd(parent),
            follow_symlinks=False,
        )

    def prepare(self, node: Node, source: OpenLower, given_up: GivenUp, size: int) -> Prepared:
        """The first `size` bytes of a lower file in a file of the work directory, its holes kept. No lock held."""
        shown = self._lookup.attributes(node)
        staged = self._upper.staged_name()
        fd = os.open(
            staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._upper.work_fd
        )
        try:
            _copy(source, fd, min(size, shown.size), given_up)
            os.ftruncate(fd, min(size, shown.size))
            self._dress(node, staged, shown)
        except OSError:
            os.close(fd)
            self._upper.discard(staged)
            raise
        return Prepared(staged, fd)

    def commit(self, node: Node, prepared: Prepared) -> None:
        """Put a prepared copy in its place, unless somebody was quicker; a nameless file gets it all the same."""
        try:
            if node.upper:
                os.close(prepared.fd)
                self._upper.discard(prepared.staged)
                return
            if node.parent is None:
                self._upper.discard(prepared.staged)
                node.upper = True
            else:
                self.directory(node.parent)
                self._place(node, prepared.staged)
        except OSError:
            os.close(prepared.fd)
            self._upper.discard(prepared.staged)
            raise
        if node.upper_fd >= 0:
            os.close(node.upper_fd)
        node.upper_fd, node.writable_fd = prepared.fd, True


def _copy(source: OpenLower, fd: int, size: int, given_up: GivenUp) -> None:
    off = 0
    while off < size:
        data = source.read(off, min(_PIECE, size - off), given_up)
        if not data:
            return
        if data.strip(b"\0"):
            view = memoryview(data)
            while view:
                view = view[os.pwrite(fd, view, off + len(data) - len(view)) :]
        off += len(data)
