"""What a Python program imports next: the files of the modules that a module names.

Reads only what is here already. Any thread; nothing waits. Where files are looked for, and in which order, is that of
CPython's Lib/importlib/_bootstrap_external.py (FileFinder).
"""

import re
import stat
import threading
from collections.abc import Iterator, Sequence

from crfs._native.index import Tree
from crfs.errors import FormatError
from crfs.formats.pyimports import Import, is_compiled, parse_compiled, parse_source
from crfs.image.libraries import ReadHere, find_path

# longer files are data
MODULE_MAX = 1 << 20
_ROOTS_MAX = 16
_DIRECTORY_MAX = 4096
_CACHE = b"__pycache__"
# directories that are searched as well where one is, from it on
_BESIDE = (b"lib-dynload", b"site-packages", b"dist-packages")
# what every interpreter has loaded before it runs a program, or holds in itself
_LOADED = {
    *("_collections_abc", "_sitebuiltins", "abc", "codecs", "genericpath", "importlib.machinery"),
    *("importlib.util", "io", "os", "posixpath", "site", "stat", "zipimport"),
}
# and what it loads from its library when it starts
_STARTED = [Import(0, "encodings", ["aliases", "utf_8"]), Import(0, "sitecustomize")]
# what most programs come to, whatever they import
_COMMON = [
    Import(0, name)
    for name in ("collections", "contextlib", "re", "typing", "warnings", "threading", "datetime", "json")
]
_INTERPRETER = re.compile(rb"python(3\.[0-9]+)")


class Modules:
    """Finds modules where programs of this tree were seen to have theirs."""

    def __init__(self, tree: Tree, read_here: ReadHere) -> None:
        self._tree = tree
        self._read_here = read_here
        self._lock = threading.Lock()
        # directories that absolute imports are looked for in, the first seen first
        self._roots: list[int] = []
        # by directory: its extension modules
        self._extensions: dict[int, dict[bytes, int]] = {}
        # how the files of the interpreter's cache are called behind the module's name: b".cpython-311.pyc"
        self._suffix = b""

    def is_module(self, inode: int, head: bytes) -> bool:
        """Whether a file, which begins with `head`, is likely to be one."""
        return is_compiled(head) or self._name(inode).endswith(b".py")

    def is_compiled(self, inode: int) -> bool:
        """Whether a file is called like a compiled module."""
        return self._name(inode).endswith(b".pyc")

    def started_by(self, inode: int) -> Sequence[int]:
        """The modules, and what else, that an interpreter loads when it starts; none if this is no interpreter."""
        match = _INTERPRETER.fullmatch(self._name(inode))
        if match is None:
            return ()
        library = find_path(self._tree, b"../lib/python" + match[1], self._tree.parent(inode))
        if not library or not stat.S_ISDIR(self._tree.attributes(library).mode):
            return ()
        self._suffix = b".cpython-" + match[1].replace(b".", b"") + b".pyc"
        self._remember(library)
        zone = find_path(self._tree, b"/etc/localtime")
        return [*([zone] if zone else ()), *self._iter_files(library, _STARTED + _COMMON)]

    def is_extension(self, inode: int) -> bool:
        """Whether a module is an object that the dynamic loader loads."""
        return self._name(inode).endswith(b".so")

    def _name(self, inode: int) -> bytes:
        return self._tree.path(inode).rpartition(b"/")[2]

    def wants(self, inode: int) -> Sequence[int]:
        """The files that loading this one loads: other modules' compiled code or source, or extension modules.

        None of them where it is no module, or not all of it is here.
        """
        size = self._tree.attributes(inode).size
        data = self._read_here(inode, 0, size) if size <= MODULE_MAX else None
        if data is None:
            return ()
        try:
            imports = parse_compiled(data) if is_compiled(data) else parse_source(data)
        except FormatError:
            return ()
        return list(dict.fromkeys(self._iter_files(self.home(inode), imports)))

    def home(self, inode: int) -> int:
        """The directory of a module, which is its package's. Where that lies, others are looked for from now on."""
        name, home = self._name(inode), self._tree.parent(inode)
        if self._is_cache(home):
            home = self._tree.parent(home)
            self._suffix = name[name.index(b".") :] if b"." in name else self._suffix
        self._remember(home)
        return home

    def _is_cache(self, directory: int) -> bool:
        return self._name(directory) == _CACHE

    def _remember(self, directory: int) -> None:
        """Where a package lies others lie too, and beside the standard library what is installed."""
        while self._file_in(directory, b"__init__") and self._tree.parent(directory) != directory:
            directory = self._tree.parent(directory)
        if directory in self._roots:
            return
        beside = (self._directory(directory, name) for name in _BESIDE)
        with self._lock:
            self._roots += [root for root in (directory, *beside) if root and root not in self._roots]
            del self._roots[_ROOTS_MAX:]

    def _child(self, place: int, name: bytes) -> int:
        """What has that name in a directory, or what a symlink of that name leads to; 0 where there is nothing."""
        found = self._tree.find(place, name)
        is_link = found and stat.S_ISLNK(self._tree.attributes(found).mode)
        return find_path(self._tree, name, place) if is_link else found

    def _directory(self, place: int, name: bytes) -> int:
        found = self._child(place, name)
        return found if found and stat.S_ISDIR(self._tree.attributes(found).mode) else 0

    def _file(self, place: int, name: bytes) -> int:
        found = self._child(place, name)
        return found if found and stat.S_ISREG(self._tree.attributes(found).mode) else 0

    def _iter_files(self, home: int, imports: Sequence[Import]) -> Iterator[int]:
        for one in imports:
            if one.level:
                place = home
                for _ in range(one.level - 1):
                    place = self._tree.parent(place)
                places = [place]
            elif one.name in _LOADED:
                continue
            else:
                places = [*self._roots]
            yield from self._iter_import(places, one)

    def _iter_import(self, places: list[int], one: Import) -> Iterator[int]:
        for part in one.name.encode("utf-8", "surrogateescape").split(b".") if one.name else ():
            file, package = self._find(places, part)
            if file:
                yield file
            if not package:
                return
            places = [package]
        if len(places) == 1:
            for name in one.names:
                file, _ = self._find(places, name.encode("utf-8", "surrogateescape"))
                if file:
                    yield file

    def _find(self, places: Sequence[int], name: bytes) -> tuple[int, int]:
        """(file, directory where it is a package) of a module; 0 for what there is not."""
        portion = 0
        for place in places:
            package = self._directory(place, name)
            if package and (file := self._file_in(package, b"__init__")):
                return file, package
            if file := self._file_in(place, name):
                return file, 0
            # without code of its own, unless another place has that
            portion = portion or package
        return 0, portion

    def _file_in(self, place: int, name: bytes) -> int:
        """What is read of the module in this directory: an extension module, else what is compiled, else its source."""
        extension = self._extensions_in(place).get(name)
        if extension is not None:
            return extension
        cache = self._directory(place, _CACHE) if self._suffix else 0
        compiled = self._file(cache, name + self._suffix) if cache else 0
        return compiled or self._file(place, name + b".py") or self._file(place, name + b".pyc")

    def _extensions_in(self, place: int) -> dict[bytes, int]:
        found = self._extensions.get(place)
        if found is None:
            found = {
                name.partition(b".")[0]: inode
                for name, inode, mode in self._tree.entries(place, 0, _DIRECTORY_MAX)
                if name.endswith(b".so") and stat.S_ISREG(mode)
            }
            self._extensions[place] = found
        return found
