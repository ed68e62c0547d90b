"""Fetches what a program's loader will open before it asks: started by the first read of an object.

first_read() returns at once, from any thread; the rest runs in the decoders' pool and when chunks arrive.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future

from crfs._native.index import Tree
from crfs.errors import CrfsError
from crfs.formats.elf import MAGIC
from crfs.image.libraries import Libraries

# begins to fetch a chunk; None where it is here
Start = Callable[[int], Future[bytes] | None]


class ObjectsAhead:
    """Starts on the libraries of each object that is read, on their libraries, and on what gets relocated."""

    def __init__(self, tree: Tree, libraries: Libraries, start: Start, pool: Executor) -> None:
        self._tree = tree
        self._libraries = libraries
        self._start = start
        self._pool = pool
        self._seen: set[int] = set()

    def first_read(self, inode: int, data: bytes) -> None:
        """A reader got the first bytes of a file."""
        if data[:4] == MAGIC and inode not in self._seen:
            self._seen.add(inode)
            self._submit(inode, True)

    def is_object(self, inode: int) -> bool:
        """Whether a file is known to be one: it is mapped, and touched here and there."""
        return inode in self._seen

    def _submit(self, inode: int, again: bool) -> None:
        # the pool may have ended
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._follow, inode, again)

    def _follow(self, inode: int, again: bool) -> None:
        """`again`: what names the libraries may yet arrive, and then they are looked for once more."""
        with contextlib.suppress(CrfsError):
            files, parts = self._libraries.wants(inode)
            flights = [self._fetch(inode, part.off, part.size) for part in parts]
            missing = [flight for flight in flights if flight is not None]
            if missing and again and not files:
                missing[-1].add_done_callback(lambda _: self._submit(inode, False))
            for file in files:
                self._open(file)

    def _open(self, file: int) -> None:
        if file in self._seen:
            return
        self._seen.add(file)
        flight = self._fetch(file, 0, 1)
        # linkers write what is relocated, and what names the libraries, behind the code
        size = self._tree.attributes(file).size
        if size:
            self._fetch(file, size - 1, 1)
        if flight is None:
            self._submit(file, True)
        else:
            flight.add_done_callback(lambda _: self._submit(file, True))

    def _fetch(self, inode: int, off: int, size: int) -> Future[bytes] | None:
        """Start on these bytes of a file; the last chunk of them that is on its way."""
        flights = [self._start(chunk) for chunk, _, _ in self._tree.cover(inode, off, size) if chunk >= 0]
        return next((flight for flight in reversed(flights) if flight is not None), None)
