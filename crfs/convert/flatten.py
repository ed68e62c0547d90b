"""Many layers as the entries of one: what a mount of them shows, each object once, and no marks.

What stands, and under which names, is the union's business (crfs._native.union): it is told of all headers, and the
layers are read again for the objects that it left. All names of an object come together, so that hard links have their
targets before them wherever these came from, and none leads through a symbolic link.
"""

import stat
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy

from msgspec import Struct

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from crfs.convert.entries import TarEntry
from crfs.convert.landmarks import is_landmark
from crfs.formats.toc import RESERVED_NAMES, TOC_NAME

Opener = Callable[[], AbstractContextManager[Iterable[TarEntry]]]
_ROOT = 1
_ALL = (1 << 32) - 1
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class _Stands(Struct):
    """The names of what stands, by the numbers of its entries: one of each, and the others of those that have some.

    `empty` are directories with nothing in them that no entry is about.
    """

    names: dict[int, str]
    links: dict[int, list[str]]
    empty: list[str]

    def of(self, number: int) -> list[str]:
        """The names of an entry's object, sorted."""
        return sorted([self.names[number], *self.links.get(number, ())])


class Flat:
    """`layers`, bottom first, as one. They are read once for what stands, and once more by each iter_entries()."""

    def __init__(self, layers: Sequence[Opener]) -> None:
        self._layers = layers
        self._stands: _Stands | None = None

    def iter_entries(self) -> Generator[TarEntry, None, None]:
        """The entries; FormatError where the layers have no tree, as with a link to nothing."""
        if self._stands is None:
            self._stands = _look(self._layers)
        stands, number = self._stands, 0
        for layer in self._layers:
            with layer() as entries:
                for number, entry in enumerate(entries, number + 1):  # noqa: B020 - it goes on over all layers
                    if number in stands.names:
                        yield from _placed(entry, stands.of(number))
        yield from map(_directory, stands.empty)


def _look(layers: Sequence[Opener]) -> _Stands:
    indexes, last = [], 0
    for layer in layers:
        index, last = _index(layer, last)
        indexes.append(index)
    return _walk(Tree(merge(indexes)))


def _index(layer: Opener, last: int) -> tuple[LayerIndex, int]:
    """The headers of a layer, whose entries are numbered from `last` on, and the number of its last one."""
    index, reserved, name = LayerIndex(), list[tuple[int, TarEntry]](), ""
    with layer() as entries:
        for last, entry in enumerate(entries, last + 1):  # noqa: B020 - the same count
            name = entry.name
            if name not in RESERVED_NAMES:
                _add(index, last, entry.info)
            elif not is_landmark(entry):
                reserved.append((last, TarEntry(entry.info)))
    if name != TOC_NAME:
        # no earlier conversion has put them there
        for number, entry in reserved:
            _add(index, number, entry.info)
    index.seal(1)
    return index, last


def _add(index: LayerIndex, number: int, info: tarfile.TarInfo) -> None:
    """Tell of an entry; its number goes as its time, which the union takes along and doesn't look at."""
    name, link = _bytes(info.name), _bytes(info.linkname)
    if info.islnk():
        index.add_hardlink(name, link)
    else:
        index.add(name, _TYPES.get(info.type, stat.S_IFREG), 0, 0, 0, number, 0, link, None)


def _walk(tree: Tree) -> _Stands:
    found = _Stands({}, {}, [])
    if number := tree.attributes(_ROOT).mtime_ns:
        found.names[number] = ""
    going = [(_ROOT, "")]
    while going:
        directory, above = going.pop()
        entries = tree.entries(directory, 0, _ALL)
        if not entries and above and not tree.attributes(directory).mtime_ns:
            found.empty.append(above.rstrip("/"))
        for raw, inode, mode in entries:
            name = above + raw.decode("utf-8", "surrogateescape")
            if stat.S_ISDIR(mode):
                going.append((inode, f"{name}/"))
            if (number := tree.attributes(inode).mtime_ns) and found.names.setdefault(number, name) != name:
                found.links.setdefault(number, []).append(name)
    return found


def _placed(entry: TarEntry, names: Sequence[str]) -> Iterator[TarEntry]:
    """The entry as a file of these names: as it is if one of them is its own."""
    first = entry.name if entry.name in names else names[0]
    yield entry if first == entry.name else _renamed(entry, first)
    yield from (_link(entry.info, name, first) for name in names if name != first)


def _renamed(entry: TarEntry, name: str) -> TarEntry:
    info = copy(entry.info)
    info.name = name
    return TarEntry(info, entry.open_payload)


def _link(info: tarfile.TarInfo, name: str, target: str) -> TarEntry:
    """A hard link with the attributes of its file, but for what only that one is asked for."""
    link = copy(info)
    link.name, link.type, link.linkname = name, tarfile.LNKTYPE, target
    link.size, link.mtime, link.pax_headers = 0, int(info.mtime), {}
    return TarEntry(link)


def _directory(name: str) -> TarEntry:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return TarEntry(info)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
