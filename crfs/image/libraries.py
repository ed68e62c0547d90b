"""What a program's loader opens next: the interpreter and the libraries that an ELF object names.

Reads only what is here already. Any thread; nothing waits.
"""

import itertools
import os.path
import stat
import threading
from collections.abc import Callable, Iterator, Sequence

from crfs._native.index import Tree
from crfs.errors import FormatError
from crfs.formats.elf import Elf, Segment, parse_dynamic, parse_elf

# a file's bytes [off, off + size), fewer at its end, or None where they are not here
ReadHere = Callable[[int, int, int], bytes | None]
# enough for the headers of every object that a linker writes
_HEAD = 4096
_STRING_MAX = 1024
_LINKS_MAX = 40
# what the interpreter of a program reads itself, where there is one
_LOADER_CACHE = b"/etc/ld.so.cache"
# what libraries read when they are begun with, by the names that programs need them by: of each, the first there is
_READ_BY = {
    b"libc.so.6": (
        (b"/usr/lib/locale/C.utf8/LC_CTYPE",),
        (b"/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache", b"/usr/lib64/gconv/gconv-modules.cache"),
    ),
    b"libcrypto.so.3": ((b"/usr/lib/ssl/openssl.cnf", b"/etc/pki/tls/openssl.cnf", b"/etc/ssl/openssl.cnf"),),
}
_DIRECTORIES = (b"/lib64", b"/usr/lib64", b"/lib", b"/usr/lib")


class Libraries:
    """Follows objects to what they need; each object once."""

    def __init__(self, tree: Tree, read_here: ReadHere) -> None:
        self._tree = tree
        self._read_here = read_here
        self._lock = threading.Lock()
        # directories that libraries were found in, the last one first
        self._found_in: list[int] = []

    def wants(self, inode: int) -> tuple[Sequence[int], Sequence[Segment]]:
        """Files that are opened with this one, and parts of it that are sure to be read.

        Where what names the files is not here yet, there are none: ask again once the parts have arrived.
        """
        try:
            elf = parse_elf(self._read(inode, 0, _HEAD))
            parts = [load for load in elf.loads if load.writable]
            return list(dict.fromkeys(self._files(inode, elf))), parts
        except FormatError:
            return (), ()

    def _files(self, inode: int, elf: Elf) -> Iterator[int]:
        home = self._tree.parent(inode)
        if elf.interpreter is not None:
            yield from self._find(self._string(inode, elf.interpreter.off), [home])
            yield from self._find(_LOADER_CACHE, [home])
        if elf.dynamic is None:
            return
        section = self._read_here(inode, elf.dynamic.off, elf.dynamic.size)
        if section is None:
            return
        dynamic = parse_dynamic(elf, section)
        places = [] if dynamic.run_path is None else self._run_path(inode, dynamic.run_path)
        for off in dynamic.needed:
            name = self._string(inode, off)
            yield from self._find(name, places)
            for paths in _READ_BY.get(name, ()):
                yield from itertools.islice(self._iter_regular(paths), 1)

    def _iter_regular(self, paths: Sequence[bytes]) -> Iterator[int]:
        for found in (find_path(self._tree, path) for path in paths):
            if found and stat.S_ISREG(self._tree.attributes(found).mode):
                yield found

    def _run_path(self, inode: int, off: int) -> list[int]:
        """The directories that the object itself names."""
        home = self._tree.parent(inode)
        origin = self._tree.path(home).strip(b"/")
        names = [
            name.replace(b"${ORIGIN}", b"/" + origin).replace(b"$ORIGIN", b"/" + origin)
            for name in self._string(inode, off).split(b":")
        ]
        return [place for name in names if (place := find_path(self._tree, os.path.normpath(name)))]

    def _find(self, name: bytes, places: Sequence[int]) -> Iterator[int]:
        """The file that the loader will take for `name`, as far as can be told: one, or none."""
        if b"/" in name:
            found = find_path(self._tree, name)
        else:
            with self._lock:
                known = list(self._found_in)
            directories = (find_path(self._tree, place) for place in _DIRECTORIES)
            everywhere = (*places, *known, *directories)
            found = next((file for place in everywhere if place and (file := self._in(place, name))), 0)
        if found and stat.S_ISREG(self._tree.attributes(found).mode):
            if name != _LOADER_CACHE:
                self._remember(self._tree.parent(found))
            yield found

    def _in(self, place: int, name: bytes) -> int:
        return find_path(self._tree, name, place)

    def _remember(self, directory: int) -> None:
        with self._lock:
            if directory not in self._found_in:
                self._found_in.insert(0, directory)
                del self._found_in[8:]

    def _read(self, inode: int, off: int, size: int) -> bytes:
        data = self._read_here(inode, off, size)
        if data is None:
            raise FormatError("not here")
        return data

    def _string(self, inode: int, off: int) -> bytes:
        return self._read(inode, off, _STRING_MAX).partition(b"\0")[0]


def find_path(tree: Tree, path: bytes, start: int = 1) -> int:
    """The inode of a path in the tree, its symlinks followed; 0 where there is none. `start`: from there."""
    at = 1 if path.startswith(b"/") else start
    names = [name for name in reversed(path.split(b"/")) if name]
    links = 0
    while names:
        name = names.pop()
        if name in (b".", b".."):
            at = at if name == b"." else tree.parent(at)
            continue
        if not stat.S_ISDIR(tree.attributes(at).mode):
            return 0
        found = tree.find(at, name)
        if not found:
            return 0
        if not stat.S_ISLNK(tree.attributes(found).mode):
            at = found
            continue
        links += 1
        if links > _LINKS_MAX:
            return 0
        target = tree.readlink(found)
        at = 1 if target.startswith(b"/") else at
        names += [part for part in reversed(target.split(b"/")) if part]
    return at
