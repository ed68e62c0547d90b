"""The bytes of files of many images, each under the name of its content (`_native.contents`): no tree, no names.

The kernel has those from elsewhere, and asks for nothing but a content by its name, and what is in it. Handlers are
called by llfuse's workers; images come and go from any thread.
"""

import contextlib
import errno
import functools
import itertools
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import llfuse

from crfs._native.contents import Contents
from crfs._native.index import Tree
from crfs._native.turns import hand_over, requester
from crfs.fuse import reply
from crfs.fuse.handler import handler
from crfs.fuse.readonly import Reader, unopened
from crfs.fuse.requester import has_left

# the root, and the directories 00 to ff; then contents, numbered as they are asked for
_FIRST_DIR = llfuse.ROOT_INODE + 1
_DIRS = llfuse.ROOT_INODE + 256
# for an image whose registry may be gone
_PATIENCE_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class Contained:
    """An image whose contents can be had. `read_out` is told of each file that was read to its end."""

    tree: Tree
    contents: Contents
    reader: Reader
    read_out: Callable[[int], None]
    # whether it has kept somebody waiting who could have had the same from another one
    is_doubtful: bool = False
    _reading: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self, inode: int, off: int, size: int, given_up: Callable[[], bool]) -> bytes:
        """See Reader.read(). With llfuse's lock, which is dropped meanwhile."""
        with self._in_use(), llfuse.lock_released:
            data = self.reader.read(inode, off, size, given_up)
        self.is_doubtful = False
        return data

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._changed:
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def await_unused(self, seconds: float) -> bool:
        """Until nobody reads any more; False if somebody still does by then."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._reading, seconds)


class _Known:
    """A content that the kernel has a number for; `image` has it as `inode`. `lookups` are the kernel's."""

    __slots__ = ("image", "inode", "lookups", "name")

    def __init__(self, name: bytes, image: Contained, inode: int) -> None:
        self.name = name
        self.image: Contained | None = image
        self.inode = inode
        self.lookups = 0


class ContentTree(llfuse.Operations):
    """The handlers. Files with the same content are one, in whichever image, and stay it while one of these is here."""

    def __init__(self) -> None:
        super().__init__()
        self._images: tuple[Contained, ...] = ()
        self._numbers: dict[bytes, int] = {}
        self._known: dict[int, _Known] = {}
        self._next = itertools.count(_DIRS + 1)

    def add(self, image: Contained) -> None:
        """From now on its contents can be had too."""
        with llfuse.lock:
            self._images = (*self._images, image)

    def remove(self, image: Contained) -> None:
        """From now on only those that another image has as well."""
        with llfuse.lock:
            self._images = tuple(each for each in self._images if each is not image)
            for known in self._known.values():
                if known.image is image:
                    known.image = None

    def _find(self, name: bytes, *, without: Contained | None = None) -> tuple[Contained, int] | None:
        """An image that has a content, and the inode; rather one that keeps nobody waiting."""
        for image in sorted(self._images, key=lambda image: image.is_doubtful):
            inode = image.contents.find(name) if image is not without else 0
            if inode:
                return image, inode
        return None

    def _look_up(self, name: bytes) -> int:
        """The number of a content; ENOENT."""
        number = self._numbers.get(name)
        if number is None:
            found = self._find(name)
            if found is None:
                raise llfuse.FUSEError(errno.ENOENT)
            number = self._numbers[name] = next(self._next)
            self._known[number] = _Known(name, *found)
        return number

    def _holder(self, number: int) -> tuple[Contained, int]:
        """An image that has the content, and its inode there; EIO where none has it any more."""
        known = self._known[number]
        if known.image is None or known.image.is_doubtful:
            found = self._find(known.name)
            if found is None:
                raise llfuse.FUSEError(errno.EIO)
            known.image, known.inode = found
        return known.image, known.inode

    def _entry(self, number: int) -> llfuse.EntryAttributes:
        made = llfuse.EntryAttributes()
        made.st_ino = number
        made.generation = 0
        made.entry_timeout = made.attr_timeout = reply.FOREVER_SECONDS
        made.st_nlink = 1
        made.st_blksize = reply.BLOCK
        made.st_mode = stat.S_IFDIR | 0o500
        if number > _DIRS:
            image, inode = self._holder(number)
            made.st_mode = stat.S_IFREG | 0o400
            made.st_size = image.tree.attributes(inode).size
            made.st_blocks = (made.st_size + 511) // 512
        return made

    @handler
    def lookup(self, parent: int, name: bytes, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        if parent == llfuse.ROOT_INODE:
            return self._entry(_FIRST_DIR + _two_digits(name))
        if parent > _DIRS:
            raise llfuse.FUSEError(errno.ENOTDIR)
        number = self._look_up(b"%02x/%b" % (parent - _FIRST_DIR, name))
        made = self._entry(number)
        self._known[number].lookups += 1
        return made

    @handler
    def forget(self, inode_list: list[tuple[int, int]]) -> None:
        for number, lookups in inode_list:
            known = self._known.get(number)
            if known is not None:
                known.lookups -= lookups
                if known.lookups <= 0:
                    del self._known[number], self._numbers[known.name]

    @handler
    def getattr(self, inode: int, ctx: llfuse.RequestContext) -> llfuse.EntryAttributes:
        return self._entry(inode)

    @handler
    def opendir(self, inode: int, ctx: llfuse.RequestContext) -> int:
        # overlayfs finds what it has been given the names of
        raise llfuse.FUSEError(errno.EACCES)

    @handler
    def open(self, inode: int, flags: int, ctx: llfuse.RequestContext) -> int:
        return unopened(inode)

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        image, inode = self._holder(fh)
        data = image.reader.find_cached(inode, off, size)
        if data is None:
            data, image, inode = self._read(self._known[fh], off, size)
        if off + size >= image.tree.attributes(inode).size:
            image.read_out(inode)
        return data

    def _read(self, known: _Known, off: int, size: int) -> tuple[bytes, Contained, int]:
        """What an image has to wait for: it gets a moment, where another one has the same, and then that is asked."""
        hand_over()
        has_gone = functools.partial(has_left, requester())
        image, inode = known.image, known.inode
        assert image is not None
        other = self._find(known.name, without=image)
        if other is not None:
            until = time.monotonic() + _PATIENCE_SECONDS
            try:
                data = image.read(inode, off, size, lambda: has_gone() or time.monotonic() > until)
            except OSError:
                if has_gone():
                    raise
                image.is_doubtful = True
                known.image, known.inode = image, inode = other
            else:
                return data, image, inode
        return image.read(inode, off, size, has_gone), image, inode

    @handler
    def release(self, fh: int) -> None:
        return

    @handler
    def statfs(self, ctx: llfuse.RequestContext) -> llfuse.StatvfsData:
        made = llfuse.StatvfsData()
        made.f_bsize = made.f_frsize = reply.BLOCK
        made.f_namemax = reply.NAME_MAX
        return made


def _two_digits(name: bytes) -> int:
    """A directory's number; ENOENT for any other name."""
    if len(name) == 2 and not name.strip(b"0123456789abcdef"):
        return int(name, 16)
    raise llfuse.FUSEError(errno.ENOENT)
