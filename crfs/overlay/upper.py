"""The upper directory and its work directory on disk. The overlay's lock is held by whoever calls.

Nothing appears in the upper directory half-made: what is not a single system call is staged in the work directory
and renamed. Directories are reached by descriptors, never through symbolic links.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator

from crfs._native import answers
from crfs._native.copies import exchange_whiteout, place_quietly, remove_flat
from crfs._native.status import Status, find_status, read_names
from crfs.overlay.attributes import Attributes, attributes_of
from crfs.overlay.marks import (
    IMPURE,
    NUMBER,
    TRUSTED,
    USER,
    WHITEOUT_PREFIX,
    FileMarks,
    is_private,
    is_whiteout,
    may_set_trusted,
    read_file_marks,
)
from crfs.overlay.node import Node
from crfs.overlay.ownership import InInodes
from crfs.overlay.renameat import EXCHANGE, renameat2

# descriptors of directories that are kept for the next call
_KEPT = 512
_WHITEOUT = b"whiteout"


class Upper:
    """Descriptors, staging and marks. Use open_upper()."""

    def __init__(self, fd: int, work_fd: int, root: Node, *, userxattr: bool) -> None:
        self.fd = fd
        self.work_fd = work_fd
        self.prefix = USER if userxattr else TRUSTED
        # the kernel follows them only where it knows that nobody else can have written them
        self.redirects = not userxattr
        self.ownership = InInodes()
        self._token = os.urandom(4).hex().encode()
        self._count = itertools.count()
        self._kept: OrderedDict[int, Node] = OrderedDict()
        self._nodes_can_be_made = True
        root.upper_fd = fd

    def leave_copies(self) -> None:
        """Copies of lower files may be staged, and whiteouts linked, without us."""
        answers.stage_copies(self.work_fd, self._token, self.prefix + NUMBER)

    def close(self) -> None:
        """Let go of both directories and of all descriptors."""
        answers.stage_copies(-1, b"", b"")
        self.let_all_go()
        with self.alone() as alone:
            if alone:
                self.empty_work()
        os.close(self.work_fd)
        os.close(self.fd)

    def dir_fd(self, node: Node) -> int:
        """The descriptor of an upper directory, opened where need be, however deep it lies."""
        if node.upper_fd >= 0:
            if node.parent is not None:
                self._kept.move_to_end(node.ino)
            return node.upper_fd
        closed = [node]
        while (parent := closed[-1].parent) is not None and parent.upper_fd < 0:
            closed.append(parent)
        assert parent is not None
        above_fd = self.dir_fd(parent)
        for each in reversed(closed):
            above_fd = self._open_at(above_fd, each)
        return above_fd

    def _open_at(self, above_fd: int, node: Node) -> int:
        assert node.name is not None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_PATH
        node.upper_fd = os.open(node.name, flags, dir_fd=above_fd)
        self._kept[node.ino] = node
        self.know_directory(node)
        while len(self._kept) > _KEPT:
            _, old = self._kept.popitem(last=False)
            _close(old)
        return node.upper_fd

    def know_directory(self, node: Node) -> None:
        """What is open may be looked at without us, and added to if it shows nothing of the lower trees."""
        if node.upper_fd >= 0:
            setgid = bool(node.mode & stat.S_ISGID)
            parent = 0 if node.parent is None else node.parent.ino
            answers.know_directory(
                node.ino, node.upper_fd, bool(node.lowers), setgid, parent, node.name or b""
            )

    def open_directory(self, node: Node) -> int:
        """A new descriptor of an upper directory, for what dir_fd() is not good for: to be read, and synced."""
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.dir_fd(node))

    def hold(self, node: Node) -> None:
        """Before a name goes of something that somebody refers to: open what soon nothing else may lead to.

        A program may be about to open or change it, or have a fifo open, or have opened it with O_PATH; what it has
        open now it may close before that.
        """
        if not (node.upper and node.nlookup):
            return
        if node.is_dir:
            self.dir_fd(node)
        elif node.held_fd < 0 and node.parent is not None and node.name is not None:
            self.hold_at(node, self.dir_fd(node.parent), node.name)

    @staticmethod
    def hold_at(node: Node, fd: int, name: bytes) -> None:
        """The same for what an open directory has under a name."""
        node.held_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)

    def keep(self, node: Node) -> None:
        """A directory has been removed: what hold() opened stays open until the node is dropped."""
        answers.forget(node.ino)
        self._kept.pop(node.ino, None)

    def let_go(self, node: Node) -> None:
        """Close a directory's descriptor: the directory is gone, or nobody knows it any more."""
        if self._kept.pop(node.ino, None) is not None or (node.is_orphan and node.upper_fd >= 0):
            _close(node)

    def let_all_go(self) -> None:
        """Close all descriptors of directories."""
        for node in self._kept.values():
            _close(node)
        self._kept.clear()

    def linked_in_work(self) -> list[bytes]:
        """What is in the work directory and, under another name, in the upper one."""
        found = []
        for text in os.listdir(self.work_fd):
            info = os.stat(text, dir_fd=self.work_fd, follow_symlinks=False)
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode) and not is_whiteout(info):
                found.append(os.fsencode(text))
        return found

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other mount uses the work directory, nor comes to as long as this lasts.

        One that was killed doesn't; one that was unmounted while a program still had files open does.
        """
        try:
            fcntl.flock(self.work_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        except OSError as error:
            # not all file systems have locks
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            alone = True
        try:
            yield alone
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self.work_fd, fcntl.LOCK_SH)

    def empty_work(self) -> None:
        """Remove all that is in the work directory."""
        _empty(self.work_fd)

    def path(self, node: Node) -> bytes:
        """A path of an upper object for the calls that know no dir_fd; the last component is not followed."""
        if node.parent is None:
            return b"/proc/self/fd/%d/." % self.fd
        assert node.name is not None
        return b"/proc/self/fd/%d/%s" % (self.dir_fd(node.parent), node.name)

    def stat(self, node: Node) -> os.stat_result:
        """What is on disk."""
        if node.upper_fd >= 0:
            return os.fstat(node.upper_fd)
        if node.held_fd >= 0:
            return os.fstat(node.held_fd)
        if node.parent is None or node.name is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return os.stat(node.name, dir_fd=self.dir_fd(node.parent), follow_symlinks=False)

    def is_empty(self) -> bool:
        """Whether nothing has been written yet."""
        with os.scandir(b"/proc/self/fd/%d/." % self.fd) as entries:
            return next(entries, None) is None

    def link(self, node: Node, dir_fd: int, name: bytes) -> None:
        """One more name for a file that has one or is open."""
        if node.parent is not None and node.name is not None:
            source_fd = self.dir_fd(node.parent)
            os.link(node.name, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        elif node.upper_fd >= 0 or node.held_fd >= 0:
            os.link(self.reach(node)[0], name, dst_dir_fd=dir_fd, follow_symlinks=True)
        else:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def reach(self, node: Node) -> tuple[bytes, bool]:
        """A path of an upper object, open or nameless ones too, and whether it has to be followed."""
        if node.is_file and node.upper_fd >= 0:
            return b"/proc/self/fd/%d" % node.upper_fd, True
        if node.held_fd >= 0:
            return b"/proc/self/fd/%d" % node.held_fd, True
        if not node.is_orphan:
            return self.path(node), False
        if node.upper_fd >= 0:
            return b"/proc/self/fd/%d/." % node.upper_fd, False
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def grasp(self, node: Node) -> tuple[bytes | int, bool]:
        """The same, for calls that take descriptors too: that of a file that is open."""
        if node.is_file and node.upper_fd >= 0:
            return node.upper_fd, True
        return self.reach(node)

    def readlink(self, node: Node) -> bytes:
        """A symbolic link's target."""
        if node.held_fd >= 0:
            return os.readlink(b"", dir_fd=node.held_fd)
        return os.readlink(self.path(node))

    def attributes(self, node: Node) -> Attributes:
        """What stat shows."""
        info = self.stat(node)
        if self.ownership.types_on_disk:
            return attributes_of(info)
        path, follow = self.reach(node)
        return self.ownership.attributes(path, info, follow=follow)

    def mode_at(self, fd: int, name: bytes, info: os.stat_result | Status) -> int:
        """Type and permissions of what an open directory has under a name."""
        if self.ownership.types_on_disk:
            return info.st_mode
        return self.ownership.attributes(b"/proc/self/fd/%d/%s" % (fd, name), info).mode

    def staged_name(self) -> bytes:
        """A name in the work directory that is not in use."""
        return b"%s-%d" % (self._token, next(self._count))

    def discard(self, staged: bytes) -> None:
        """Remove whatever is staged under a name."""
        remove_at(self.work_fd, staged)

    @contextlib.contextmanager
    def times_kept(self, parent: Node) -> Iterator[None]:
        """A directory's times stay what they were: a copy-up into it is no change of it."""
        fd = self.dir_fd(parent)
        # nobody sees them in between
        answers.forget(parent.ino)
        before = os.fstat(fd)
        yield
        os.utime(b".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=fd)
        self.know_directory(parent)

    def place(self, staged: bytes, parent: Node, name: bytes) -> None:
        """Move what is staged to its place, over a whiteout or a file there; a directory goes over a whiteout too."""
        parent_fd = self.dir_fd(parent)
        try:
            os.rename(staged, name, src_dir_fd=self.work_fd, dst_dir_fd=parent_fd)
        except NotADirectoryError:
            renameat2(self.work_fd, staged, parent_fd, name, EXCHANGE)
            self.discard(staged)

    def place_quietly(self, staged: bytes, parent: Node, name: bytes) -> None:
        """The same, as a copy-up, which is no change of the directory."""
        fd = self.dir_fd(parent)
        answers.forget(parent.ino)
        try:
            place_quietly(self.work_fd, staged, fd, name)
        except NotADirectoryError:
            with self.times_kept(parent):
                self.place(staged, parent, name)
        finally:
            self.know_directory(parent)

    def has_whiteout(self, parent: Node, name: bytes) -> bool:
        """Whether the upper directory has a whiteout under a name."""
        info = find_status(self.dir_fd(parent), name)
        return info is not None and is_whiteout(info)

    def has_name(self, directory: Node, name: bytes) -> bool:
        """Whether an upper directory has an entry of that very name."""
        return self.has_entry(self.dir_fd(directory), name)

    @staticmethod
    def has_entry(fd: int, path: bytes) -> bool:
        """Whether there is something at a path below an open directory."""
        try:
            return find_status(fd, path) is not None
        except OSError:
            return False

    def has_aufs_whiteout(self, fd: int, name: bytes) -> bool:
        """Whether there is a `.wh.NAME`; looked for only where device nodes could not be made."""
        if self._nodes_can_be_made:
            return False
        return self.has_entry(fd, WHITEOUT_PREFIX + name)

    def entries(self, directory: Node) -> list[tuple[bytes, int, int, bool]]:
        """(name, inode number, type or 0, whether it is a whiteout) of all that an upper directory has."""
        is_typed = self.ownership.types_on_disk
        return [_entry(*found, is_typed) for found in read_names(self.dir_fd(directory))]

    def remove_whiteouts(self, directory: Node) -> None:
        """Take the whiteouts out of an upper directory through which nothing of the lower trees shows."""
        fd = self.dir_fd(directory)
        for name, _, _, whiteout in read_names(fd):
            if whiteout or name.startswith(WHITEOUT_PREFIX):
                os.unlink(name, dir_fd=fd)

    def white_out_directory(self, parent: Node, name: bytes) -> None:
        """Put a whiteout in the place of a directory that shows nothing, which goes with what it holds."""
        staged = self.staged_name()
        fd = self.dir_fd(parent)
        if not (self._nodes_can_be_made and exchange_whiteout(self.work_fd, _WHITEOUT, staged, fd, name)):
            self.white_out(parent, name)
        elif not remove_flat(self.work_fd, staged):
            self.discard(staged)

    def white_out(self, parent: Node, name: bytes) -> None:
        """Put a whiteout in the place of whatever the upper directory has under a name."""
        parent_fd = self.dir_fd(parent)
        staged = self._stage_whiteout()
        if staged is None:
            self._white_out_aufs(parent_fd, name)
            return
        try:
            os.rename(staged, name, src_dir_fd=self.work_fd, dst_dir_fd=parent_fd)
        except IsADirectoryError:
            renameat2(self.work_fd, staged, parent_fd, name, EXCHANGE)
            self.discard(staged)

    def _stage_whiteout(self) -> bytes | None:
        """A whiteout in the work directory: one more link to the one that is kept there; None if none can be made."""
        staged = self.staged_name()
        while self._nodes_can_be_made:
            try:
                os.link(_WHITEOUT, staged, src_dir_fd=self.work_fd, dst_dir_fd=self.work_fd)
                return staged
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                os.unlink(_WHITEOUT, dir_fd=self.work_fd)
            try:
                os.mknod(_WHITEOUT, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self.work_fd)
            except FileExistsError:
                continue
            except PermissionError:
                self._nodes_can_be_made = False
        return None

    def _white_out_aufs(self, parent_fd: int, name: bytes) -> None:
        """Where device nodes can't be made: an empty file `.wh.NAME`."""
        os.close(os.open(WHITEOUT_PREFIX + name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=parent_fd))
        remove_at(parent_fd, name)

    def mark(self, path: bytes | int, mark: bytes, value: bytes) -> None:
        """Set one of the overlay's own extended attributes."""
        os.setxattr(path, self.prefix + mark, value)

    def mark_impure(self, path: bytes) -> None:
        """A directory through which nothing shows comes to hold what has its number from below, if that can be kept."""
        with contextlib.suppress(OSError):
            self.mark(path, b"impure", b"y")
            self.mark(path, IMPURE, b"y")

    @staticmethod
    def unmark(fd: int, mark: bytes) -> None:
        """Remove one of them, whoever has set it."""
        for name in map(os.fsencode, os.listxattr(fd)):
            if is_private(name) and name.endswith(b"." + mark):
                os.removexattr(fd, name)

    def set_number_mark(self, path: bytes | int, mark: bytes) -> bool:
        """Mark a copy as one that keeps a number; whether that is possible."""
        try:
            os.setxattr(path, self.prefix + NUMBER, mark, follow_symlinks=isinstance(path, int))
        except OSError:
            return False
        return True

    def file_marks(self, fd: int, name: bytes) -> FileMarks:
        """What a file in an open directory says of itself."""
        return read_file_marks(b"/proc/self/fd/%d/%s" % (fd, name))


def _close(directory: Node) -> None:
    answers.forget(directory.ino)
    os.close(directory.upper_fd)
    directory.upper_fd = -1


def _entry(name: bytes, ino: int, mode: int, whiteout: bool, is_typed: bool) -> tuple[bytes, int, int, bool]:
    if name.startswith(WHITEOUT_PREFIX):
        return name[len(WHITEOUT_PREFIX) :], 0, 0, True
    return name, ino, mode if is_typed or not stat.S_ISREG(mode) else 0, whiteout


def open_upper(upper: bytes, work: bytes, root: Node, *, userxattr: bool) -> Upper:
    """An upper directory and its work directory, with what a crash may have left there. OSError.

    Marks are `user.` ones if they are asked for, or if there is no right to others.
    """
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    work_root = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with contextlib.suppress(FileExistsError):
        os.mkdir(b"work", 0o700, dir_fd=work_root)
    work_fd = os.open(b"work", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=work_root)
    os.close(work_root)
    return Upper(fd, work_fd, root, userxattr=userxattr or not may_set_trusted(work_fd))


def _empty(fd: int) -> None:
    """Remove all that a directory holds."""
    for name in os.listdir(fd):
        remove_at(fd, os.fsencode(name))


def remove_at(fd: int, name: bytes) -> None:
    """Remove a name and, if it is a directory, what is below; a name that is not there is fine."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            _empty(child)
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=fd)
