"""An overlay as a file system: llfuse's requests in, answers out. No semantics: those are the overlay's.

Called by llfuse's workers with llfuse's lock held. It is dropped around what moves bytes or may fetch them; a few
system calls on names and attributes cost less than giving it up and getting it back.
"""

import errno
import functools
import itertools
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import llfuse
import msgspec

from crfs._native import answers
from crfs._native.turns import hand_over, requester, takes_special
from crfs.fuse.directories import Directories, list_names
from crfs.fuse.handler import handler
from crfs.fuse.reply import no_entry
from crfs.fuse.requester import CAP_FOWNER, has_capability, is_dying, listable, may_keep_setgid
from crfs.fuse.view import View
from crfs.overlay.attributes import Attributes
from crfs.overlay.files import NOTHING, Changes
from crfs.overlay.node import Listed, Node
from crfs.overlay.overlay import SMALL, Overlay
from crfs.overlay.ownership import Owner

R = TypeVar("R")
# When an answer about a directory crosses a change in it, the kernel may take the old times for the new ones. It
# counts the versions of what is written to, but not of directories: these are asked about again.
_DIRECTORY_SECONDS = 1.0


def _unlocked(work: Callable[[], R]) -> R:
    hand_over()
    with llfuse.lock_released:
        return work()


class Writable(llfuse.Operations):
    """The handlers."""

    opens_directories = True

    def __init__(self, overlay: Overlay, view: View) -> None:
        super().__init__()
        self._overlay = overlay
        self._view = view
        bound = _DIRECTORY_SECONDS if overlay.is_writable else view.timeout_seconds
        self._directory_seconds = min(bound, view.timeout_seconds)
        self._no_entry = no_entry()
        self._no_entry.entry_timeout = view.timeout_seconds
        self._dirent = llfuse.EntryAttributes()
        self._handles = itertools.count(1)
        # handle -> node, and the thread that opened it
        self._files: dict[int, tuple[Node, int]] = {}
        self._dirs: dict[int, tuple[int, list[Listed]]] = {}
        self.read_directory = Directories(overlay, view, self._directory_seconds).read
        if overlay.is_plain and view.is_plain:
            answers.allow(view.timeout_seconds, self._directory_seconds, overlay.numbers_are_own)
            overlay.leave_files()

    def _entry(self, ino: int, shown: Attributes) -> llfuse.EntryAttributes:
        view = self._view
        made = llfuse.EntryAttributes()
        made.st_ino = ino
        made.generation = 0
        made.entry_timeout = view.timeout_seconds
        made.attr_timeout = self._directory_seconds if stat.S_ISDIR(shown.mode) else view.timeout_seconds
        made.st_mode = shown.mode
        made.st_nlink = view.nlink(shown)
        made.st_uid = view.uids.to_shown(shown.uid)
        made.st_gid = view.gids.to_shown(shown.gid)
        made.st_rdev = shown.rdev
        made.st_size = shown.size
        made.st_blksize = 4096
        made.st_blocks = shown.blocks
        made.st_atime_ns = shown.atime_ns
        made.st_mtime_ns = shown.mtime_ns
        made.st_ctime_ns = shown.ctime_ns
        return made

    def _owner(self, ctx: llfuse.RequestContext) -> Owner:
        return Owner(self._view.uids.to_disk(ctx.uid), self._view.gids.to_disk(ctx.gid))

    def _asked_by(self, ctx: llfuse.RequestContext) -> Callable[[], bool]:
        return functools.partial(is_dying, ctx.pid)

    @handler
    def lookup(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        found = self._overlay.lookup(parent, name)
        return self._no_entry if found is None else self._entry(*found)

    @handler
    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            self._overlay.forget(ino, count)

    @handler
    def getattr(self, inode: int, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        node = self._overlay.node(inode)
        return self._entry(inode, self._overlay.files.attributes(node))

    @handler
    def setattr(
        self,
        inode: int,
        attr: llfuse.EntryAttributes,
        fields: llfuse.SetattrFields,
        fh: int | None,
        ctx: llfuse.RequestContext,
    ) -> llfuse.EntryAttributes:
        node = self._overlay.node(inode)
        changes = Changes(
            size=attr.st_size if fields.update_size else None,
            mode=attr.st_mode if fields.update_mode else None,
            uid=self._view.uids.to_disk(attr.st_uid) if fields.update_uid else None,
            gid=self._view.gids.to_disk(attr.st_gid) if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if takes_special() or changes == NOTHING:
            changes = msgspec.structs.replace(changes, loses=self._lost(node, ctx.pid))
        if changes.loses and not takes_special() and not self._is_owner(node, ctx):
            return self._entry(inode, self._before_write(node))
        asked_by = self._asked_by(ctx)
        return self._entry(
            inode, self._near(node, lambda: self._overlay.files.change(node, changes, asked_by))
        )

    def _lost(self, node: Node, thread: int) -> int:
        """Of setuid and setgid, what a node loses by a thread's change of its owner or content."""
        if not node.mode & (stat.S_ISUID | stat.S_ISGID) or node.is_dir:
            return 0
        keeps = not node.mode & stat.S_IXGRP and may_keep_setgid(thread, self._gid(node))
        return node.mode & (stat.S_ISUID if keeps else stat.S_ISUID | stat.S_ISGID)

    def _gid(self, node: Node) -> int:
        return self._view.gids.to_shown(self._overlay.files.attributes(node).gid)

    def _before_write(self, node: Node) -> Attributes:
        """To change nothing of a file that is not one's own is refused, but the kernel asks for it before a write."""
        if not node.opens:
            raise llfuse.FUSEError(errno.EPERM)
        return self._overlay.files.attributes(node)

    def _is_owner(self, node: Node, ctx: llfuse.RequestContext) -> bool:
        owner = self._view.uids.to_shown(self._overlay.files.attributes(node).uid)
        # root may be where it can't be seen: in a pid namespace that is not below ours
        return ctx.uid in (0, owner) or has_capability(ctx.pid, CAP_FOWNER)

    def _near(self, node: Node, work: Callable[[], R]) -> R:
        """Work that copies a node up, where need be: with the lock held if that takes no longer than to drop it."""
        return work() if self._overlay.is_near(node) else _unlocked(work)

    @handler
    def readlink(self, inode: int, ctx: llfuse.RequestContext) -> bytes:
        node = self._overlay.node(inode)
        return self._overlay.files.readlink(node)

    @handler
    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: llfuse.RequestContext
    ) -> llfuse.EntryAttributes:
        owner = self._owner(ctx)
        return self._entry(*self._overlay.mknod(parent, name, mode, rdev, owner))

    @handler
    def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: llfuse.RequestContext
    ) -> llfuse.EntryAttributes:
        owner = self._owner(ctx)
        return self._entry(*self._overlay.mkdir(parent, name, mode, owner))

    @handler
    def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: llfuse.RequestContext
    ) -> llfuse.EntryAttributes:
        owner = self._owner(ctx)
        return self._entry(*self._overlay.symlink(parent, name, target, owner))

    @handler
    def link(
        self, inode: int, new_parent: int, new_name: bytes, ctx: llfuse.RequestContext
    ) -> llfuse.EntryAttributes:
        asked_by = self._asked_by(ctx)
        node = self._overlay.node(inode)
        return self._entry(
            *self._near(node, lambda: self._overlay.link(inode, new_parent, new_name, asked_by))
        )

    @handler
    def unlink(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> None:
        self._overlay.unlink(parent, name)

    @handler
    def rmdir(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> None:
        self._overlay.rmdir(parent, name)

    @handler
    def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, ctx: llfuse.RequestContext
    ) -> None:
        asked_by = self._asked_by(ctx)
        _unlocked(lambda: self._overlay.rename(old_parent, old, new_parent, new, asked_by))

    def _new_file(self, node: Node, ctx: llfuse.RequestContext) -> int:
        fh = next(self._handles)
        self._files[fh] = node, ctx.pid
        return fh

    @handler
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: llfuse.RequestContext
    ) -> tuple[int, llfuse.EntryAttributes]:
        owner = self._owner(ctx)
        ino, shown = self._overlay.create(parent, name, mode, owner)
        return self._new_file(self._overlay.node(ino), ctx), self._entry(ino, shown)

    @handler
    def open(self, inode: int, flags: int, ctx: llfuse.RequestContext) -> int:
        node = self._overlay.node(inode)
        asked_by = self._asked_by(ctx)
        self._near(node, lambda: self._overlay.files.open(node, flags, asked_by))
        return self._new_file(node, ctx)

    def _opened(self, fh: int) -> tuple[Node, int]:
        """What a handle is of, and the thread that opened it: 0 where that was answered without us."""
        ino = answers.handle_number(fh)
        return self._files[fh] if ino is None else (self._overlay.node(ino), 0)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        node, opener = self._opened(fh)
        return _unlocked(
            lambda: self._overlay.files.read(node, off, size, functools.partial(is_dying, opener))
        )

    @handler
    def write(self, fh: int, off: int, buf: bytes) -> int:
        node, _ = self._opened(fh)
        if takes_special() and (lost := self._lost(node, requester())):
            self._overlay.files.lose(node, lost)
            # the kernel goes on believing what it knows of the mode
            answers.forget_attributes(node.ino)
        if len(buf) <= SMALL:
            return self._overlay.files.write(node, off, buf)
        return _unlocked(lambda: self._overlay.files.write(node, off, buf))

    @handler
    def fsync(self, fh: int, datasync: bool) -> None:
        node, _ = self._opened(fh)
        self._fsync(node, datasync)

    def _fsync(self, node: Node, datasync: bool) -> None:
        """ENOSYS once, and the kernel asks no more."""
        if not self._overlay.syncs:
            raise llfuse.FUSEError(errno.ENOSYS)
        _unlocked(lambda: self._overlay.files.fsync(node, data_only=datasync))

    @handler
    def flush(self, fh: int) -> None:
        raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def release(self, fh: int) -> None:
        node, _ = self._opened(fh)
        self._files.pop(fh, None)
        self._overlay.release(node)

    @handler
    def opendir(self, inode: int, ctx: llfuse.RequestContext) -> int:
        fh = next(self._handles)
        self._dirs[fh] = inode, []
        return fh

    @handler
    def readdir(self, fh: int, off: int) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        inode, names = self._dirs[fh]
        if off == 0:
            names = list_names(self._overlay, inode)
            self._dirs[fh] = inode, names
        return self._dirents(names, off)

    def _dirents(
        self, names: Sequence[Listed], off: int
    ) -> Iterator[tuple[bytes, llfuse.EntryAttributes, int]]:
        dirent = self._dirent
        for at in range(off, len(names)):
            name, dirent.st_ino, dirent.st_mode, _ = names[at]
            yield name, dirent, at + 1

    @handler
    def releasedir(self, fh: int) -> None:
        del self._dirs[fh]

    @handler
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        # what was not opened by llfuse comes with the inode for a handle
        inode, _ = self._dirs.get(fh, (fh, []))
        self._fsync(self._overlay.node(inode), datasync)

    @handler
    def statfs(self, ctx: llfuse.RequestContext) -> llfuse.StatvfsData:
        info = self._overlay.statvfs()
        made = llfuse.StatvfsData()
        if info is None:
            return made
        made.f_bsize, made.f_frsize = info.f_bsize, info.f_frsize
        made.f_blocks, made.f_bfree, made.f_bavail = info.f_blocks, info.f_bfree, info.f_bavail
        made.f_files, made.f_ffree, made.f_favail = info.f_files, info.f_ffree, info.f_favail
        made.f_namemax = info.f_namemax
        return made

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext | None = None) -> bytes:
        self._need_xattrs()
        node = self._overlay.node(inode)
        return self._overlay.files.getxattr(node, name)

    @handler
    def listxattr(self, inode: int, ctx: llfuse.RequestContext) -> list[bytes]:
        self._need_xattrs()
        node = self._overlay.node(inode)
        return listable(self._overlay.files.listxattr(node), ctx.uid)

    def _need_xattrs(self) -> None:
        """ENOSYS once, and the kernel asks no more."""
        if not self._view.xattrs:
            raise llfuse.FUSEError(errno.ENOSYS)

    @handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: llfuse.RequestContext) -> None:
        self._need_xattrs()
        node = self._overlay.node(inode)
        asked_by = self._asked_by(ctx)
        self._near(node, lambda: self._overlay.files.setxattr(node, name, value, 0, asked_by))

    @handler
    def removexattr(self, inode: int, name: bytes, ctx: llfuse.RequestContext) -> None:
        self._need_xattrs()
        node = self._overlay.node(inode)
        asked_by = self._asked_by(ctx)
        self._near(node, lambda: self._overlay.files.removexattr(node, name, asked_by))

    @handler
    def access(self, inode: int, mode: int, ctx: llfuse.RequestContext) -> bool:
        # the kernel checks permissions by itself (default_permissions)
        raise llfuse.FUSEError(errno.ENOSYS)
