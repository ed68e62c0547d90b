"""Fetches what a program's loader will open before it asks: started by the first read of an object or of a module.

first_read() returns at once, from any thread; the rest runs in the decoders' pool and when chunks arrive.
"""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future

from crfs._native.index import Tree
from crfs.errors import CrfsError
from crfs.formats.elf import MAGIC
from crfs.image.libraries import Libraries
from crfs.image.modules import MODULE_MAX, Modules

# begins to fetch a chunk; None where it is here
Start = Callable[[int], Future[bytes] | None]
# modules that are fetched ahead of programs: from import to import, and in all
_DEPTH_MAX, _FILES_MAX = 10, 10_000


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
            if missing and again:
                missing[-1].add_done_callback(lambda _: self._submit(inode, False))
            for file in files:
                self.open(file)

    def open(self, file: int) -> None:
        """Start on an object that will be opened."""
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


class ModulesAhead:
    """Starts on the modules that each module of Python that is read imports, and on those that they import.

    Extension modules are `objects`.
    """

    def __init__(
        self, tree: Tree, modules: Modules, start: Start, objects: ObjectsAhead, pool: Executor
    ) -> None:
        self._tree = tree
        self._modules = modules
        self._start = start
        self._objects = objects
        self._pool = pool
        self._seen: set[int] = set()
        self._left = _FILES_MAX

    def first_read(self, inode: int, data: bytes) -> None:
        """A reader got the first bytes of a file."""
        if inode in self._seen:
            return
        self._seen.add(inode)
        if self._modules.is_module(inode, data):
            # at once: what is read next may be imported from there
            self._modules.home(inode)
            # a mount that goes away fetches nothing ahead
            with contextlib.suppress(CrfsError):
                self._open(inode, 0)

    def is_compiled(self, inode: int) -> bool:
        """Whether a file is called like a compiled module."""
        return self._modules.is_compiled(inode)

    def asked_for(self, inode: int) -> None:
        """A reader comes for the first bytes of a file, which may be an interpreter: that takes a while itself."""
        if inode not in self._seen and (files := self._modules.started_by(inode)):
            self._seen.add(inode)
            self._open_all(files, 0)

    def _open(self, inode: int, depth: int) -> None:
        """Start on all of a module, and follow it once it is here."""
        size = self._tree.attributes(inode).size
        if size > MODULE_MAX:
            return
        started = [self._start(chunk) for chunk, _, _ in self._tree.cover(inode, 0, size) if chunk >= 0]
        flights = [flight for flight in started if flight is not None]
        # one for each that is done, in any order; that of the last one is there to be taken
        turns = iter(range(len(flights) - 1))

        def arrived(_: Future[bytes]) -> None:
            if next(turns, None) is None:
                self._submit(inode, depth)

        for flight in flights:
            flight.add_done_callback(arrived)
        if not flights:
            self._submit(inode, depth)

    def _submit(self, inode: int, depth: int) -> None:
        # the pool may have ended
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._follow, inode, depth)

    def _follow(self, inode: int, depth: int) -> None:
        if depth < _DEPTH_MAX:
            self._open_all(self._modules.wants(inode), depth + 1)

    def _open_all(self, files: Iterable[int], depth: int) -> None:
        with contextlib.suppress(CrfsError):
            for file in files:
                if file in self._seen or not self._left:
                    continue
                self._seen.add(file)
                self._left -= 1
                if self._modules.is_extension(file):
                    self._objects.open(file)
                else:
                    self._open(file, depth)
