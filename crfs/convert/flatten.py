"""Many layers as the entries of one: what an upper layer hides or replaces is left out, and no mark is kept.

Layers are read from the top down, so that nothing has to be kept but names. Hard links come last, because their
target may lie in a layer that is read later; and where the file that a link stands for is hidden, the first link of
it that is not becomes the file. To know those, a layer is read twice.
"""

import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy

from crfs.convert.entries import TarEntry, clean_name
from crfs.convert.order import is_landmark
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
        parents = _parents(name)
        return any(self._names.get(parent) is False or parent in self._opaque for parent in parents)

    def add(self, names: dict[str, bool], gone: Iterable[str], opaque: Iterable[str]) -> None:
        """One more layer lies over those below."""
        for name, is_directory in names.items():
            self._names.setdefault(name, is_directory)
            self._implied.update(_parents(name))
        for name in gone:
            self._names.setdefault(name, False)
        self._opaque.update(opaque)


def _parents(name: str) -> list[str]:
    """The directories above, the root first."""
    parts = name.split("/")
    return ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))] if name else []


def iter_flat(layers: Sequence[Opener]) -> Generator[TarEntry, None, None]:
    """The entries of `layers`, bottom first, as one; each is opened twice."""
    hidden = _Hidden()
    links: list[TarEntry] = []
    for layer in reversed(layers):
        headers, gone, opaque = _read_headers(layer)
        promoted = _promote(headers, hidden)
        numbers = {name: number for name, (number, _) in headers.items()}
        with layer() as entries:
            for number, entry in enumerate(entries):
                if numbers.get(entry.name) == number:
                    yield from _place(entry, _final(headers, entry.name), promoted, hidden, links)
        hidden.add({name: info.isdir() for name, (_, info) in headers.items()}, gone, opaque)
    yield from reversed(links)


def _read_headers(
    layer: Opener,
) -> tuple[dict[str, tuple[int, tarfile.TarInfo]], list[str], list[str]]:
    """The last header of each name and its number; what is whited out; which directories are opaque."""
    headers: dict[str, tuple[int, tarfile.TarInfo]] = {}
    reserved: dict[str, tuple[int, tarfile.TarInfo]] = {}
    gone, opaque, last = [], [], ""
    with layer() as entries:
        for number, entry in enumerate(entries):
            last = entry.name
            head, _, base = entry.name.rpartition("/")
            if base == OPAQUE_NAME:
                opaque.append(head)
            elif base.startswith(WHITEOUT_PREFIX):
                if not base.startswith(WHITEOUT_PREFIX * 2):
                    gone.append(f"{head}/{base[len(WHITEOUT_PREFIX) :]}".lstrip("/"))
            elif not is_landmark(entry):
                found = reserved if entry.name in RESERVED_NAMES else headers
                found[entry.name] = (number, entry.info)
    if last != TOC_NAME:
        # no earlier conversion has put them there
        headers |= reserved
    return headers, gone, opaque


def _promote(headers: dict[str, tuple[int, tarfile.TarInfo]], hidden: _Hidden) -> dict[str, str]:
    """For each hidden file that links of this layer stand for: the first of those that can be seen."""
    promoted: dict[str, str] = {}
    for name, (_, info) in headers.items():
        target = _final(headers, name)
        if target != name and hidden.hides(target, headers[target][1]) and not hidden.hides(name, info):
            promoted.setdefault(target, name)
    return promoted


def _final(headers: dict[str, tuple[int, tarfile.TarInfo]], name: str) -> str:
    """What a link stands for, over other links of its layer; itself for all else."""
    seen = {name}
    while headers[name][1].islnk():
        target = clean_name(headers[name][1].linkname)
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
