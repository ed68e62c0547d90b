"""Names of an overlay: made, removed, moved. Every step is a rename or a single system call, so that a crash leaves
the tree as it was before or after, and at worst something in the work directory.

The overlay's lock is held by whoever calls. The kernel has looked up both names and checked types and permissions;
what only an overlay can know is checked here.
"""

import errno
import os
import stat
from collections.abc import Callable

from crfs._native import answers
from crfs.overlay.copyup import CopyUp
from crfs.overlay.detach import detach
from crfs.overlay.lookup import Lookup
from crfs.overlay.node import ROOT_INODE, Node, NodeTable, origin_of
from crfs.overlay.ownership import Owner
from crfs.overlay.renameat import EXCHANGE, WHITEOUT, renameat2
from crfs.overlay.upper import Upper


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Namespace:
    """create() to rename(). Each returns the node that a name leads to afterwards, or nothing.

    Without `redirects` no directory that lower trees have a part in can be moved.
    """

    def __init__(
        self, lookup: Lookup, copy_up: CopyUp, upper: Upper, table: NodeTable, *, redirects: bool
    ) -> None:
        self._lookup = lookup
        self._redirects = redirects
        self._copy_up = copy_up
        self._upper = upper
        self._table = table

    def create(self, parent: Node, name: bytes, mode: int, owner: Owner) -> Node:
        """A new regular file, open for reading and writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        opened: list[int] = []

        def make(dir_fd: int, made: bytes) -> None:
            opened.append(os.open(made, flags, self._upper.ownership.backing_mode(mode), dir_fd=dir_fd))

        node = self._make(parent, name, stat.S_IFREG | mode, owner, make)
        node.upper_fd, node.writable_fd = opened[-1], True
        return node

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, owner: Owner) -> Node:
        """A new fifo, socket, device or (unopened) regular file. EPERM for what would be a whiteout."""
        if stat.S_ISCHR(mode) and rdev == 0:
            raise _fail(errno.EPERM)

        def make(fd: int, made: bytes) -> None:
            self._upper.ownership.mknod(fd, made, mode, rdev)

        return self._make(parent, name, mode, owner, make, rdev)

    def symlink(self, parent: Node, name: bytes, target: bytes, owner: Owner) -> Node:
        """A new symbolic link."""
        return self._make(
            parent, name, stat.S_IFLNK | 0o777, owner, lambda fd, made: os.symlink(target, made, dir_fd=fd)
        )

    def mkdir(self, parent: Node, name: bytes, mode: int, owner: Owner) -> Node:
        """A new directory; nothing shows through it that a lower tree has under its name."""

        def make(fd: int, made: bytes) -> None:
            os.mkdir(made, self._upper.ownership.backing_mode(mode), dir_fd=fd)

        return self._make(parent, name, stat.S_IFDIR | mode, owner, make)

    def _make(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        owner: Owner,
        make: Callable[[int, bytes], None],
        rdev: int = 0,
    ) -> Node:
        # a directory that is in the upper one alone tells by itself that a name is taken
        if (parent.lowers or name in parent.children) and self._lookup.find(parent, name) is not None:
            raise _fail(errno.EEXIST)
        self._alive(parent)
        self._copy_up.directory(parent)
        parent_fd = self._upper.dir_fd(parent)
        owner, mode = self._inherit(parent, mode, owner)
        try:
            make(parent_fd, name)
        except FileExistsError:
            if self._lookup.find(parent, name) is not None:
                raise
            # a whiteout: what is new is made beside it, and takes its place
            ino, mode = self._make_over_whiteout(parent, name, mode, owner, make, rdev)
        else:
            ino, mode = self._upper.ownership.own(parent_fd, name, mode, rdev, owner)
        node = self._lookup.add_new(ino, mode, parent, name)
        node.xattr_names = frozenset()
        return node

    def _make_over_whiteout(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        owner: Owner,
        make: Callable[[int, bytes], None],
        rdev: int,
    ) -> tuple[int, int]:
        staged, work = self._upper.staged_name(), self._upper.work_fd
        make(work, staged)
        try:
            made = self._upper.ownership.own(work, staged, mode, rdev, owner)
            if stat.S_ISDIR(mode) and self._lookup.has_below(parent, name):
                self._upper.mark(b"/proc/self/fd/%d/%s" % (work, staged), b"opaque", b"y")
            self._upper.place(staged, parent, name)
        except OSError:
            self._upper.discard(staged)
            raise
        return made

    def _inherit(self, parent: Node, mode: int, owner: Owner) -> tuple[Owner, int]:
        """A setgid directory hands its group on, and to directories the bit as well (inode_init_owner)."""
        if parent.mode & stat.S_ISGID:
            owner = Owner(owner.uid, self._upper.attributes(parent).gid)
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return owner, mode

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """One more name for a node that has one."""
        if self._lookup.find(parent, name) is not None:
            raise _fail(errno.EEXIST)
        self._alive(parent)
        self._copy_up.directory(parent)
        self._copy_up.take_in(parent, node)
        try:
            self._upper.link(node, self._upper.dir_fd(parent), name)
        except FileExistsError:
            staged = self._upper.staged_name()
            self._upper.link(node, self._upper.work_fd, staged)
            self._upper.place(staged, parent, name)
        self._table.add_name(node, parent, name)

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove a name of what is no directory."""
        node = self._found(parent, name)
        if node.is_dir:
            raise _fail(errno.EISDIR)
        self._upper.hold(node)
        if self._lookup.is_below(node, parent, name):
            self._copy_up.directory(parent)
            self._upper.white_out(parent, name)
        else:
            os.unlink(name, dir_fd=self._upper.dir_fd(parent))
        self._lookup.links.count_removed(node)
        self._table.unname(node, parent, name)

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove an empty directory."""
        node = self._found(parent, name)
        if not node.is_dir:
            raise _fail(errno.ENOTDIR)
        if node.lowers and not self._lookup.is_empty(node):
            raise _fail(errno.ENOTEMPTY)
        if self._lookup.is_below(node, parent, name):
            if not node.lowers and not self._lookup.is_empty(node):
                raise _fail(errno.ENOTEMPTY)
            self._copy_up.directory(parent)
            self._upper.hold(node)
            if node.upper:
                self._upper.white_out_directory(parent, name)
            else:
                self._upper.white_out(parent, name)
        else:
            self._upper.hold(node)
            self._remove_upper_dir(node, parent, name)
        self._upper.keep(node)
        self._table.unname(node, parent, name)

    def _remove_upper_dir(self, node: Node, parent: Node, name: bytes) -> None:
        """A directory that shows nothing may still hold whiteouts."""
        parent_fd = self._upper.dir_fd(parent)
        try:
            os.rmdir(name, dir_fd=parent_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not self._lookup.is_empty(node):
                raise
            staged = self._upper.staged_name()
            os.rename(name, staged, src_dir_fd=parent_fd, dst_dir_fd=self._upper.work_fd)
            self._upper.discard(staged)

    def rename(self, old_parent: Node, old: bytes, new_parent: Node, new: bytes) -> None:
        """Move a name, over another one of its kind.

        The node is in the upper directory already, if it is a file, and so is all that a directory shows, if it
        can't have a redirect.
        """
        node = self._found(old_parent, old)
        target = self._lookup.find(new_parent, new)
        if target is node:
            return
        self._check_target(node, target)
        self._alive(new_parent)
        self._copy_up.directory(old_parent)
        self._copy_up.directory(new_parent)
        self._copy_up.anything(node)
        self._copy_up.name(node, old_parent, old)
        self._copy_up.take_in(new_parent, node)
        hides_lower = self._lookup.has_below(old_parent, old)
        covers_lower = self._lookup.has_below(new_parent, new)
        if node.is_dir:
            self._mark_moved(node, covers_lower)
        if target is not None and target.upper:
            if target.is_dir:
                self._clear(target)
            self._upper.hold(target)
        if node.is_dir:
            answers.forget(node.ino)
        self._move(node, old_parent, old, new_parent, new, hides_lower)
        if node.is_dir:
            self._lookup.links.forget_moves()
        if target is not None:
            if target.is_dir:
                self._upper.keep(target)
            else:
                self._lookup.links.count_removed(target)
            self._table.unname(target, new_parent, new)
        self._table.unname(node, old_parent, old)
        self._table.add_name(node, new_parent, new)
        if node.is_dir:
            self._upper.know_directory(node)

    def check_movable(self, node: Node) -> None:
        """EXDEV where a directory is to stay, because it has parts in lower trees."""
        if node.is_dir and node.lowers and not self._redirects:
            raise _fail(errno.EXDEV)

    def _check_target(self, node: Node, target: Node | None) -> None:
        if target is None:
            return
        if node.is_dir and not target.is_dir:
            raise _fail(errno.ENOTDIR)
        if target.is_dir and not node.is_dir:
            raise _fail(errno.EISDIR)
        if target.is_dir and not self._lookup.is_empty(target):
            raise _fail(errno.ENOTEMPTY)

    def _mark_moved(self, node: Node, covers_lower: bool) -> None:
        """A merged directory takes its lower parts along, or needs them no more; another one must not get any."""
        path = self._upper.path(node)
        if node.lowers and not self._upper.redirects:
            detach(node, self._lookup, self._upper)
        elif node.lowers:
            origin = origin_of(node)
            self._upper.mark(path, b"redirect", origin)
            node.redirect = origin
        elif covers_lower:
            self._upper.mark(path, b"opaque", b"y")

    def _clear(self, target: Node) -> None:
        """Take the whiteouts out of a directory that shows nothing, and see to it that nothing shows instead."""
        if target.lowers:
            self._upper.mark(self._upper.path(target), b"opaque", b"y")
        self._upper.remove_whiteouts(target)

    def _move(
        self, node: Node, old_parent: Node, old: bytes, new_parent: Node, new: bytes, hides_lower: bool
    ) -> None:
        old_fd, new_fd = self._upper.dir_fd(old_parent), self._upper.dir_fd(new_parent)
        if node.is_dir and self._upper.has_whiteout(new_parent, new):
            # a directory can't replace a whiteout, but change places with it
            renameat2(old_fd, old, new_fd, new, EXCHANGE)
            if not hides_lower:
                os.unlink(old, dir_fd=old_fd)
        elif hides_lower:
            self._move_and_hide(old_parent, old, new_parent, new)
        else:
            os.rename(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)

    def _move_and_hide(self, old_parent: Node, old: bytes, new_parent: Node, new: bytes) -> None:
        """The old name becomes a whiteout in the same step, where the file system can do that."""
        old_fd, new_fd = self._upper.dir_fd(old_parent), self._upper.dir_fd(new_parent)
        try:
            renameat2(old_fd, old, new_fd, new, WHITEOUT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
                raise
            os.rename(old, new, src_dir_fd=old_fd, dst_dir_fd=new_fd)
            self._upper.white_out(old_parent, old)

    def _found(self, parent: Node, name: bytes) -> Node:
        node = self._lookup.find(parent, name)
        if node is None:
            raise _fail(errno.ENOENT)
        return node

    @staticmethod
    def _alive(parent: Node) -> None:
        """Nothing can be made in a directory that has been removed."""
        if parent.is_orphan and parent.ino != ROOT_INODE:
            raise _fail(errno.ENOENT)
