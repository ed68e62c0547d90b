"""Many layers as the entries of one: what an upper layer hides or replaces is left out, and no mark is kept.

Layers are read from the top down, so that nothing has to be kept but names. Hard links come last, because their
target may lie in a layer that is read later; and where the file that a link stands for is hidden, the first link of
it that is not becomes the file. To know those, a layer is read twice.
"""

import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy

from msgspec import Struct

from crfs.convert.entries import TarEntry, clean_name
from crfs.convert.landmarks import is_landmark
from crfs.convert.standing import Standing, parents
from crfs.formats.toc import RESERVED_NAMES, TOC_NAME
from crfs.formats.whiteout import OPAQUE_NAME, WHITEOUT_PREFIX

Opener = Callable[[], AbstractContextManager[Iterable[TarEntry]]]


class _Hidden:
    """What the layers read so far, the upper ones, have put over those below."""

    def __init__(self) -> None:
        # of each name: whether what lies below it is still to be seen, for it is a directory
        self._names: dict[str, bool] = {}
        # directories that have no entry of their own, but something in them
        self._implied: set[str] = set()
        self._opaque: set[str] = set()

    def hides(self, name: str, info: tarfile.TarInfo) -> bool:
        """Whether something of the lower layers can't be seen."""
        if name in self._names or (name in self._implied and not info.isdir()):
            return True
        return any(self._names.get(parent) is False or parent in self._opaque for parent in parents(name))

    def add(self, names: dict[str, bool], gone: Iterable[str], opaque: Iterable[str]) -> None:
        """One more layer lies over those below."""
        for name, is_directory in names.items():
            self._names.setdefault(name, is_directory)
            self._implied.update(parents(name))
        for name in gone:
            self._names.setdefault(name, False)
        self._opaque.update(opaque)


def iter_flat(layers: Sequence[Opener]) -> Generator[TarEntry, None, None]:
    """The entries of `layers`, bottom first, as one; each is opened twice."""
    hidden = _Hidden()
    links: list[TarEntry] = []
    for layer in reversed(layers):
        headers = _read_headers(layer)
        promoted = _promote(headers.infos, hidden)
        with layer() as entries:
            for number, entry in enumerate(entries):
                stands = headers.standing.written(number, entry)
                if stands is not None:
                    yield from _place(stands, _final(headers.infos, stands.name), promoted, hidden, links)
        hidden.add({name: info.isdir() for name, info in headers.infos.items()}, headers.gone, headers.opaque)
    yield from reversed(links)


class _Headers(Struct):
    """What stands of a layer, and by name the headers of that; what is whited out; which directories are opaque."""

    standing: Standing
    infos: dict[str, tarfile.TarInfo]
    gone: list[str]
    opaque: list[str]


def _read_headers(layer: Opener) -> _Headers:
    headers = _Headers(Standing(), {}, [], [])
    met: list[tuple[int, TarEntry]] = []
    reserved: list[tuple[int, TarEntry]] = []
    last = ""
    with layer() as entries:
        for number, entry in enumerate(entries):
            last = entry.name
            head, _, base = entry.name.rpartition("/")
            if base == OPAQUE_NAME:
                headers.opaque.append(head)
            elif base.startswith(WHITEOUT_PREFIX):
                if not base.startswith(WHITEOUT_PREFIX * 2):
                    headers.gone.append(f"{head}/{base[len(WHITEOUT_PREFIX) :]}".lstrip("/"))
            elif not is_landmark(entry):
                found = reserved if entry.name in RESERVED_NAMES else met
                found.append((number, TarEntry(entry.info)))
    if last != TOC_NAME:
        # no earlier conversion has put them there
        met += reserved
    for number, entry in met:
        headers.standing.add(number, entry)
    headers.standing.finish()
    stand = filter(None, (headers.standing.written(number, entry) for number, entry in met))
    headers.infos.update((entry.name, entry.info) for entry in stand)
    headers.opaque += headers.standing.anew
    return headers


def _promote(headers: dict[str, tarfile.TarInfo], hidden: _Hidden) -> dict[str, str]:
    """For each hidden file that links of this layer stand for: the first of those that can be seen."""
    promoted: dict[str, str] = {}
    for name, info in headers.items():
        target = _final(headers, name)
        if target != name and hidden.hides(target, headers[target]) and not hidden.hides(name, info):
            promoted.setdefault(target, name)
    return promoted


def _final(headers: dict[str, tarfile.TarInfo], name: str) -> str:
    """What a link stands for, over other links of its layer; itself for all else."""
    seen = {name}
    while headers[name].islnk():
        target = clean_name(headers[name].linkname)
        if target not in headers or target in seen:
            break
        seen.add(target)
        name = target
    return name


def _place(
    entry: TarEntry, target: str, promoted: dict[str, str], hidden: _Hidden, links: list[TarEntry]
) -> Iterator[TarEntry]:
    """The entry as it is to be written, if it is; links, which stand for `target`, are put aside."""
    name = entry.name
    if not entry.info.islnk():
        if not hidden.hides(name, entry.info):
            yield entry
        elif name in promoted:
            yield _renamed(entry, promoted[name])
    elif not hidden.hides(name, entry.info) and promoted.get(target) != name:
        info = copy(entry.info)
        info.linkname = promoted.get(target, info.linkname if target == name else target)
        links.append(TarEntry(info))


def _renamed(entry: TarEntry, name: str) -> TarEntry:
    info = copy(entry.info)
    info.name = name
    return TarEntry(info, entry.open_payload)
