"""What an overlay's objects hold: bytes, attributes, extended attributes. Locks for itself; any thread.

A file that is open is one node with one source of bytes, the lower file or the upper one after a copy-up, however
many handles there are; so all of them see what any of them writes.
"""

import errno
import os
import stat
import threading
from collections.abc import Mapping

from msgspec import Struct

from crfs._native import answers
from crfs.overlay.attributes import Attributes
from crfs.overlay.copyup import CopyUp
from crfs.overlay.lookup import Lookup
from crfs.overlay.lower import GivenUp, OpenLower
from crfs.overlay.marks import NAMESPACES, is_acl, is_private
from crfs.overlay.node import Node, NodeTable
from crfs.overlay.upper import Upper


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Changes(Struct, frozen=True):
    """What setattr is to change; None leaves it as it is. Times in ns. `loses`: bits of the mode that go with that."""

    size: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    loses: int = 0

    @property
    def is_chown(self) -> bool:
        """Also one to the owner and group that are: only the change time moves, and what that loses."""
        others = self.size, self.mode, self.atime_ns, self.mtime_ns
        return self.uid is not None or self.gid is not None or others == (None,) * 4


# of chown(2) to the owner and group that are
NOTHING = Changes()


class Files:
    """Open files and attributes. `upper` and `copy_up` are None where the overlay is read-only."""

    def __init__(
        self,
        lock: threading.RLock,
        lookup: Lookup,
        upper: Upper | None,
        copy_up: CopyUp | None,
        table: NodeTable,
    ) -> None:
        self._lock = lock
        self._lookup = lookup
        self._upper = upper
        self._copy_up = copy_up
        self._table = table

    def open(self, node: Node, flags: int, given_up: GivenUp) -> None:
        """One more handle. A lower file that is opened for writing is copied up first."""
        wants_write = flags & os.O_ACCMODE != os.O_RDONLY
        if wants_write:
            self.copy_up(node, given_up, size=0 if flags & os.O_TRUNC else None)
        with self._lock:
            self._open_locked(node, wants_write)
            node.opens += 1
            know_file(node)

    def _open_locked(self, node: Node, wants_write: bool) -> None:
        if not node.upper or self._upper is None or node.data is not None:
            if node.lower_file is None:
                node.lower_file = _open_data(node)
            return
        if node.upper_fd >= 0 and (node.writable_fd or not wants_write):
            return
        fd, writable = self._open_upper(node, wants_write)
        if node.upper_fd >= 0:
            # in its place: somebody may be reading from it
            os.dup2(fd, node.upper_fd, inheritable=False)
            os.close(fd)
        else:
            node.upper_fd = fd
        node.writable_fd = writable

    def _open_upper(self, node: Node, wants_write: bool) -> tuple[int, bool]:
        """For reading and writing where that may be, since a later handle may write."""
        assert self._upper is not None
        path, follow = self._upper.reach(node)
        flags = os.O_CLOEXEC if follow else os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, os.O_RDWR | flags), True
        except OSError as error:
            if wants_write or error.errno not in (errno.EACCES, errno.EROFS, errno.ETXTBSY, errno.EPERM):
                raise
            return os.open(path, os.O_RDONLY | flags), False

    def release(self, node: Node) -> None:
        """One handle fewer; with the last one the files behind it are closed."""
        with self._lock:
            node.opens -= 1
            if node.opens == 0:
                close_files(node)

    def read(self, node: Node, off: int, size: int, given_up: GivenUp) -> bytes:
        """Bytes of an open file, as they are now."""
        source = node.lower_file
        if source is not None and (not node.upper or node.data is not None):
            return source.read(off, size, given_up)
        return os.pread(node.upper_fd, size, off)

    def write(self, node: Node, off: int, data: bytes) -> int:
        """Write to an open file; how much was written."""
        view = memoryview(data)
        while view:
            view = view[os.pwrite(node.upper_fd, view, off + len(data) - len(view)) :]
        return len(data)

    def fsync(self, node: Node, *, data_only: bool) -> None:
        """Everything written is on the disk; of a directory, its names."""
        if not node.upper:
            return
        sync = os.fdatasync if data_only else os.fsync
        if not node.is_dir:
            sync(node.upper_fd)
            return
        with self._lock:
            assert self._upper is not None
            fd = self._upper.open_directory(node)
        try:
            sync(fd)
        finally:
            os.close(fd)

    def copy_up(self, node: Node, given_up: GivenUp, size: int | None = None) -> None:
        """A node is in the upper directory afterwards; of a file no more than `size` bytes are copied."""
        if self._copy_up is None:
            raise _fail(errno.EROFS)
        with self._lock:
            if node.upper and node.data is None:
                return
            if not node.is_file:
                self._copy_up.anything(node)
                return
            opened = node.lower_file is None
            source: OpenLower = node.lower_file or _open_data(node)
            # the source stays open while it is copied, also if the last handle goes
            node.opens += 1
        try:
            prepared = self._copy_up.prepare(node, source, given_up, 1 << 62 if size is None else size)
            with self._lock:
                self._copy_up.commit(node, prepared)
        finally:
            if opened:
                source.close()
            self.release(node)

    def attributes(self, node: Node) -> Attributes:
        """What stat shows."""
        with self._lock:
            return self._lookup.attributes(node)

    def change(self, node: Node, changes: Changes, given_up: GivenUp) -> Attributes:
        """Change attributes; what stat shows afterwards."""
        if node.upper and changes.size is None:
            return self._change(node, changes)
        with self._lock:
            # a copy stays open until it is changed
            node.opens += 1
        try:
            self.copy_up(node, given_up, changes.size)
            return self._change(node, changes)
        finally:
            self.release(node)

    def _change(self, node: Node, changes: Changes) -> Attributes:
        with self._lock:
            if changes.size is not None:
                self._truncate(node, changes.size)
            self._lose(node, changes.loses)
            if changes.is_chown:
                self._chown(node, changes.uid, changes.gid)
            if changes.mode is not None and not stat.S_ISLNK(node.mode):
                self._chmod(node, stat.S_IFMT(node.mode) | stat.S_IMODE(changes.mode))
            if changes.atime_ns is not None or changes.mtime_ns is not None:
                self._set_times(node, changes)
            return self._lookup.attributes(node)

    def _chown(self, node: Node, uid: int | None, gid: int | None) -> None:
        """A change of owner takes setuid and setgid away from files on disk, also those that were not to go."""
        assert self._upper is not None
        path, follow = self._upper.grasp(node)
        owner = -1 if uid is None else uid, -1 if gid is None else gid
        self._upper.ownership.chown(path, *owner, follow=follow)
        if node.mode & (stat.S_ISUID | stat.S_ISGID) and node.is_file:
            self._upper.ownership.chmod(path, node.mode, follow=follow)

    def lose(self, node: Node, bits: int) -> None:
        """A file that is written to loses these bits of its mode."""
        with self._lock:
            self._lose(node, bits)

    def _lose(self, node: Node, bits: int) -> None:
        if node.mode & bits:
            self._chmod(node, node.mode & ~bits)

    def _chmod(self, node: Node, mode: int) -> None:
        assert self._upper is not None
        path, follow = self._upper.grasp(node)
        self._upper.ownership.chmod(path, mode, follow=follow)
        node.mode = mode
        if node.is_dir:
            self._upper.know_directory(node)

    def _set_times(self, node: Node, changes: Changes) -> None:
        assert self._upper is not None
        atime_ns, mtime_ns = changes.atime_ns, changes.mtime_ns
        if atime_ns is None or mtime_ns is None:
            shown = self._lookup.attributes(node)
            atime_ns = shown.atime_ns if atime_ns is None else atime_ns
            mtime_ns = shown.mtime_ns if mtime_ns is None else mtime_ns
        path, follow = self._upper.grasp(node)
        os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=follow)

    def _truncate(self, node: Node, size: int) -> None:
        if node.upper_fd >= 0 and node.writable_fd:
            os.ftruncate(node.upper_fd, size)
            return
        fd, _ = self._open_upper(node, True)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def readlink(self, node: Node) -> bytes:
        """A symbolic link's target."""
        with self._lock:
            if node.upper and self._upper:
                return self._upper.readlink(node)
            lower, found = node.lowers[0]
            return lower.readlink(found.handle)

    def _raw_xattrs(self, node: Node) -> Mapping[bytes, bytes]:
        lower, found = node.lowers[0]
        return lower.xattrs(found.handle)

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """One extended attribute; ENODATA where there is none."""
        if is_acl(name) or not name.startswith(NAMESPACES):
            raise _fail(errno.EOPNOTSUPP)
        with self._lock:
            if is_private(name) or name not in self._names_locked(node):
                raise _fail(errno.ENODATA)
            if node.upper and self._upper:
                path, follow = self._upper.reach(node)
                return os.getxattr(path, name, follow_symlinks=follow)
            return self._raw_xattrs(node)[name]

    def listxattr(self, node: Node) -> list[bytes]:
        """Names of the extended attributes, the overlay's own left out."""
        with self._lock:
            names = self._names_locked(node)
        return [name for name in names if not is_private(name) and not is_acl(name)]

    def _names_locked(self, node: Node) -> frozenset[bytes]:
        """All names, asked for once: nobody but us changes them."""
        if node.xattr_names is None:
            if node.upper and self._upper:
                path, follow = self._upper.reach(node)
                found = os.listxattr(path, follow_symlinks=follow)
                node.xattr_names = frozenset(os.fsencode(name) for name in found)
            else:
                node.xattr_names = frozenset(self._raw_xattrs(node))
        return node.xattr_names

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int, given_up: GivenUp) -> None:
        """Set an extended attribute; `flags` as in setxattr(2)."""
        self._writable_xattr(name)
        if not node.upper:
            self.copy_up(node, given_up)
        with self._lock:
            path, follow = self._reach_xattrs(node)
            os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def removexattr(self, node: Node, name: bytes, given_up: GivenUp) -> None:
        """Remove an extended attribute; ENODATA where there is none."""
        self._writable_xattr(name)
        if not node.upper:
            self.getxattr(node, name)
            self.copy_up(node, given_up)
        with self._lock:
            path, follow = self._reach_xattrs(node)
            os.removexattr(path, name, follow_symlinks=follow)

    def _reach_xattrs(self, node: Node) -> tuple[bytes, bool]:
        """Where to change extended attributes, whose names are then no longer known."""
        assert self._upper is not None
        node.xattr_names = None
        answers.forget(node.ino)
        return self._upper.reach(node)

    @staticmethod
    def _writable_xattr(name: bytes) -> None:
        if is_acl(name):
            raise _fail(errno.EOPNOTSUPP)
        if is_private(name):
            raise _fail(errno.EPERM)


def _open_data(node: Node) -> OpenLower:
    """Where a file's bytes are as long as the upper directory does not have them."""
    lower, found = node.data or node.lowers[-1]
    return lower.open(found.handle)


def let_go(node: Node) -> None:
    """Close all that leads to what is no directory."""
    close_files(node)
    if node.held_fd >= 0:
        os.close(node.held_fd)
        node.held_fd = -1


def know_file(node: Node) -> None:
    """A file that is open, and all in the upper directory, may be written to without us."""
    if node.writable_fd and node.data is None:
        answers.know_file(node.ino, node.upper_fd, node.xattr_names == frozenset())


def close_files(node: Node) -> None:
    """Close what a regular file's handles read from and wrote to."""
    if node.is_file and node.upper_fd >= 0:
        answers.forget(node.ino)
        os.close(node.upper_fd)
        node.upper_fd, node.writable_fd = -1, False
    if node.lower_file is not None:
        node.lower_file.close()
        node.lower_file = None
