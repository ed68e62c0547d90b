"""Copy-up: a lower object gets its place in the upper directory, with all that it was.

Regular files in two phases: prepare() fetches and builds a copy in the work directory with no lock held, commit()
looks again and renames it. Everything else is small and done at once. The overlay's lock is the caller's, but for
prepare().
"""

import contextlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crfs._native.copies import copy_directory, copy_plain
from crfs.overlay.attributes import Attributes
from crfs.overlay.lookup import Lookup
from crfs.overlay.lower import DirectoryLower, GivenUp, Lower, OpenFile, OpenLower
from crfs.overlay.marks import NUMBER, is_private
from crfs.overlay.node import ROOT_INODE, Node, NodeTable, Place
from crfs.overlay.numbers import Numbers
from crfs.overlay.upper import Upper

log = logging.getLogger(__name__)
_PIECE = 1 << 20
# what the file systems below can leave out
_BLOCK = 4096
_ZEROS = bytes(_BLOCK)


class Prepared(Struct):
    """A copy of a file in the work directory, open for reading and writing; whether it says what its number is.

    `ino`: its own number there.
    """

    staged: bytes
    fd: int
    marked: bool
    ino: int


class CopyUp:
    """Moves nodes up. OSError, with nothing changed, where the upper directory takes no more."""

    def __init__(self, lookup: Lookup, upper: Upper, table: NodeTable) -> None:
        self._lookup = lookup
        self._upper = upper
        self._table = table

    def root(self) -> None:
        """The upper directory itself gets the mode of the lower trees' root, and what else may be given to it."""
        root, fd = self._lookup.root, self._upper.fd
        lower, found = root.lowers[0]
        shown = lower.attributes(found.handle)
        self._upper.ownership.chmod(fd, shown.mode, shown.rdev, follow=True)
        with contextlib.suppress(OSError):
            self._dress(root, fd, shown)

    def directory(self, node: Node) -> None:
        """A directory, and those above it, are in the upper directory afterwards."""
        lower: list[Node] = []
        each: Node | None = node
        while each is not None and not each.upper:
            lower.append(each)
            each = each.parent
        for each in reversed(lower):
            self._small(each)

    def anything(self, node: Node) -> None:
        """A directory, symbolic link, device, fifo or socket is in the upper directory afterwards."""
        if node.upper:
            return
        if node.parent is not None:
            self.directory(node.parent)
        self._small(node)

    def _copy_directory(self, node: Node) -> bool:
        """Copy up a directory that is no more than most are; whether it is one, and has a name."""
        lower, found = node.lowers[0]
        if node.is_orphan or not (isinstance(lower, DirectoryLower) and self._upper.ownership.is_plain):
            return False
        if lower.is_recorded:
            return False
        staged = self._upper.staged_name()
        ino = copy_directory(*lower.reach(found.handle), self._upper.work_fd, staged)
        if ino is None:
            return False
        try:
            return self._place(node, staged, True, ino)
        except OSError:
            self._upper.discard(staged)
            raise

    def _small(self, node: Node) -> None:
        if node.is_dir and self._copy_directory(node):
            return
        shown = self._lookup.attributes(node)
        staged = self._upper.staged_name()
        work = self._upper.work_fd
        if stat.S_ISDIR(shown.mode):
            os.mkdir(staged, self._upper.ownership.backing_mode(0o700), dir_fd=work)
        elif stat.S_ISLNK(shown.mode):
            lower, found = node.lowers[0]
            os.symlink(lower.readlink(found.handle), staged, dir_fd=work)
        else:
            self._upper.ownership.mknod(work, staged, stat.S_IFMT(shown.mode) | 0o600, shown.rdev)
        try:
            marked = self._dress(node, b"/proc/self/fd/%d/%s" % (work, staged), shown)
            info = os.stat(staged, dir_fd=work, follow_symlinks=False)
            if not self._place(node, staged, marked, info.st_ino):
                self._keep_nameless(node, staged)
        except OSError:
            self._upper.discard(staged)
            raise

    def _keep_nameless(self, node: Node, staged: bytes) -> None:
        """A copy of what has lost all names is only reached by who has it open."""
        self._upper.hold_at(node, self._upper.work_fd, staged)
        if node.is_dir:
            node.upper_fd, node.held_fd = node.held_fd, -1
        self._upper.discard(staged)
        node.upper = True

    def _dress(self, node: Node, copy: bytes | int, shown: Attributes) -> bool:
        """Owner, extended attributes, mode and times of a copy, in the order in which none undoes another.

        It is given by a path, which is not followed, or by a descriptor.

        Whether the copy could be marked with its number; a directory has that from what it is merged with.
        """
        ownership, is_open = self._upper.ownership, isinstance(copy, int)
        ownership.chown(copy, shown.uid, shown.gid, follow=is_open)
        lower, found = node.lowers[0]
        for name, value in lower.xattrs(found.handle).items():
            if not is_private(name):
                os.setxattr(copy, name, value, follow_symlinks=is_open)
        marked = node.is_dir or self._upper.set_number_mark(copy, self._lookup.number_mark(node))
        if not stat.S_ISLNK(shown.mode):
            ownership.chmod(copy, shown.mode, shown.rdev, follow=is_open)
        os.utime(copy, ns=(shown.atime_ns, shown.mtime_ns), follow_symlinks=is_open)
        return marked

    def _place(self, node: Node, staged: bytes, marked: bool, ino: int) -> bool:
        """Give a staged copy every name of the node; whether there is any."""
        places = self._lookup.links.places(node)
        for parent, _ in places:
            self.directory(parent)
        if not places:
            return False
        if len(places) == 1:
            self._upper.place_quietly(staged, *places[0])
        else:
            self._link_staged(staged, places)
        self._table.set_upper(node, ino)
        if not marked:
            self._table.remember(node)
        return True

    def _link_staged(self, staged: bytes, places: list[Place]) -> None:
        """All names or none. The staged one goes last: what has it after a crash lacks others (clean_work)."""
        made: list[Place] = []
        try:
            for parent, name in places:
                self._link_one(staged, parent, name)
                made.append((parent, name))
        except OSError:
            for parent, name in made:
                os.unlink(name, dir_fd=self._upper.dir_fd(parent))
            raise
        self._upper.discard(staged)

    def _link_one(self, staged: bytes, parent: Node, name: bytes) -> None:
        fd = self._upper.dir_fd(parent)
        with self._upper.times_kept(parent):
            os.link(staged, name, src_dir_fd=self._upper.work_fd, dst_dir_fd=fd, follow_symlinks=False)

    def finish(self, staged: bytes) -> None:
        """Give a copy that a crash has kept from getting all of its names the rest."""
        mark = self._upper.file_marks(self._upper.work_fd, staged).number
        source = None if mark is None else self._lookup.lower_of_mark(mark)
        if source is None:
            return
        for parent, name in self._lookup.links.places_of(*source):
            self.directory(parent)
            self._link_one(staged, parent, name)

    def name(self, node: Node, parent: Node, name: bytes) -> None:
        """That very name of a node that is up is in the upper directory afterwards."""
        if not node.is_dir and not self._upper.has_name(parent, name):
            self.directory(parent)
            with self._upper.times_kept(parent):
                self._upper.link(node, self._upper.dir_fd(parent), name)

    def take_in(self, parent: Node, node: Node) -> None:
        """Before something gets a name in an upper directory: the directory says if it has its number from below."""
        if parent.lowers or parent.impure or not self._lookup.is_from_below(node):
            return
        self._upper.mark_impure(self._upper.path(parent))
        parent.impure = True

    def prepare(self, node: Node, source: OpenLower, given_up: GivenUp, size: int) -> Prepared:
        """The first `size` bytes of a lower file in a file of the work directory, its holes kept. No lock held."""
        is_new = node.data is None
        if is_new and node.lowers[0][1].nlink > 1:
            # which may take a while, and is remembered
            lower, found = node.lowers[0]
            lower.names(found.key)
        shown = self._lookup.attributes(node)
        staged = self._upper.staged_name()
        if is_new and size >= shown.size and isinstance(source, OpenFile):
            copied = self._copy_plain(node, source, staged)
            if copied is not None:
                return copied
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        mode = self._upper.ownership.backing_mode(0o600)
        fd = os.open(staged, flags, mode, dir_fd=self._upper.work_fd)
        try:
            _copy(source, fd, min(size, shown.size), given_up)
            os.ftruncate(fd, min(size, shown.size))
            marked = is_new and self._dress(node, fd, shown)
        except OSError:
            os.close(fd)
            self._upper.discard(staged)
            raise
        return Prepared(staged, fd, marked, os.fstat(fd).st_ino)

    def _copy_plain(self, node: Node, source: OpenFile, staged: bytes) -> Prepared | None:
        """The copy of what is no more than most files are; None where it is not."""
        if not (source.plain and len(node.lowers) == 1 and self._upper.ownership.is_plain):
            return None
        mark = self._upper.prefix + NUMBER
        copied = copy_plain(source.fd, self._upper.work_fd, staged, mark, self._lookup.number_mark(node))
        return None if copied is None else Prepared(staged, copied[0], copied[2], copied[1])

    def commit(self, node: Node, prepared: Prepared) -> None:
        """Put a prepared copy in its place, unless somebody was quicker; a nameless file gets it all the same."""
        if node.data is not None:
            self._fill(node, prepared)
            return
        try:
            if node.upper:
                os.close(prepared.fd)
                self._upper.discard(prepared.staged)
                return
            if not self._place(node, prepared.staged, prepared.marked, prepared.ino):
                self._keep_nameless(node, prepared.staged)
        except OSError:
            os.close(prepared.fd)
            self._upper.discard(prepared.staged)
            raise
        if node.upper_fd >= 0:
            os.close(node.upper_fd)
        node.upper_fd, node.writable_fd = prepared.fd, True

    def _fill(self, node: Node, prepared: Prepared) -> None:
        """Give a file whose metadata is in the upper directory its bytes. The mark that it has none goes last."""
        path, follow = self._upper.reach(node)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
        try:
            before, kept = os.fstat(fd), _kept_xattrs(fd)
            _copy(OpenFile(prepared.fd), fd, os.fstat(prepared.fd).st_size, lambda: False)
            for name, value in kept.items():
                os.setxattr(fd, name, value)
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            self._upper.unmark(fd, b"metacopy")
        except OSError:
            os.close(fd)
            raise
        finally:
            os.close(prepared.fd)
            self._upper.discard(prepared.staged)
        node.data = None
        if node.upper_fd >= 0:
            os.close(node.upper_fd)
        node.upper_fd, node.writable_fd = fd, True


def _kept_xattrs(fd: int) -> dict[str, bytes]:
    """What the kernel takes from a file that is written to."""
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name == "security.capability"}


def _copy(source: OpenLower, fd: int, size: int, given_up: GivenUp) -> None:
    off = 0
    while off < size:
        off, end = source.data_at(off, size)
        while off < end:
            data = source.read(off, min(_PIECE, end - off), given_up)
            if not data:
                return
            for start, stop in _written(data):
                _write(fd, memoryview(data)[start:stop], off + start)
            off += len(data)


def _written(data: bytes) -> Iterator[tuple[int, int]]:
    """The spans of some bytes that have to be written: blocks of zeros become holes."""
    if _ZEROS not in data:
        yield 0, len(data)
        return
    blocks = range(0, len(data), _BLOCK)
    for full, group in itertools.groupby(blocks, lambda at: data[at : at + _BLOCK].strip(b"\0") != b""):
        if full:
            starts = list(group)
            yield starts[0], min(starts[-1] + _BLOCK, len(data))


def _write(fd: int, view: memoryview, off: int) -> None:
    while view:
        written = os.pwrite(fd, view, off)
        view, off = view[written:], off + written


def clean_work(upper: Upper, lowers: Sequence[Lower]) -> None:
    """Before anything is served: what a crash has left half-done is done, or removed."""
    with upper.alone() as alone:
        if not alone:
            log.warning("the upper and work directories are used by another mount")
            return
        for staged in upper.linked_in_work():
            _finish(staged, upper, lowers)
        upper.empty_work()


def _finish(staged: bytes, upper: Upper, lowers: Sequence[Lower]) -> None:
    """With nodes of its own, which are not what they were afterwards."""
    root = Node(ROOT_INODE, stat.S_IFDIR, None, None)
    root.upper_fd = upper.fd
    table = NodeTable(root)
    copy_up = CopyUp(Lookup(lowers, upper, root, table, Numbers(lowers)), upper, table)
    # where there is no space, say, the names that it has have to do
    with contextlib.suppress(OSError):
        copy_up.finish(staged)
    upper.let_all_go()
