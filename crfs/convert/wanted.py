"""Which files of a layer come first, and how a layer that only comes as a stream is brought in that order.

The stream is read twice: once for what is wanted, which is kept (in memory, then in a temporary file), and once
for the rest. Where a wanted name turns out to need another one (the target of a hard link), once more.
"""

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

import msgspec

from crfs.convert.entries import TarEntry, clean_name
from crfs.convert.landmarks import drop_reserved, landmark
from crfs.convert.standing import Standing, parents
from crfs.errors import CrfsError, FormatError, UsageError
from crfs.formats.toc import NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK

logger = logging.getLogger(__name__)
_IN_MEMORY = 16 << 20
_PIECE = 1 << 20
Opener = Callable[[], AbstractContextManager[Iterable[TarEntry]]]


class Wanted(msgspec.Struct, frozen=True):
    """Paths in the order in which they were read, then whatever matches one of `globs` (fnmatch, `*` with `/`)."""

    names: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        """Whether a cleaned name is one of the globs'."""
        return any(fnmatchcase(name, glob) for glob in self.globs)

    def order(self, names: Mapping[str, object]) -> list[str]:
        """Those of `names` that are wanted, in their order."""
        listed = [name for name in self.names if name in names]
        known = set(listed)
        return listed + [name for name in names if name not in known and self.matches(name)]


class _Recorded(msgspec.Struct):
    path: str


def read_trace(path: Path) -> tuple[str, ...]:
    """The paths of a trace: one a line, or as `ctr-remote images optimize` records them; UsageError."""
    try:
        lines = path.read_bytes().splitlines()
        found = [_traced(line.strip()) for line in lines if line.strip()]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}: no trace: {error}") from error
    return tuple(dict.fromkeys(name for name in found if name))


def _traced(line: bytes) -> str:
    if line.startswith(b"{"):
        return clean_name(msgspec.json.decode(line, type=_Recorded).path)
    return clean_name(line.decode("utf-8", "surrogateescape"))


def clean_globs(globs: Sequence[str]) -> tuple[str, ...]:
    """Patterns as names are matched by them: without a slash in front."""
    return tuple(glob.lstrip("/") for glob in globs)


class _Look(msgspec.Struct, frozen=True):
    """A layer that was read once: what stands of it, and of what comes first the entries, by number, at hand whole."""

    standing: Standing
    kept: dict[int, TarEntry]


def iter_wanted_first(
    open_entries: Opener, wanted: Wanted, name: str = "the layer"
) -> Generator[TarEntry, None, None]:
    """What is wanted, each after what it needs, then the landmark, then the rest, of a layer's entries.

    Of several entries of one name only what stands in the end is kept (see Standing). A layer that can't have another
    order keeps its own, and has nothing to prefetch; a warning says so, with the layer's `name`.
    `open_entries` is called two or three times.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        look = _look(open_entries, wanted, spool)
        if look.standing.trouble is not None:
            if wanted.order(look.standing.names):
                logger.warning("%s: none of its files comes first: %s", name, look.standing.trouble)
            yield landmark(NO_PREFETCH_LANDMARK)
            with open_entries() as entries:
                yield from drop_reserved(entries)
            return
        first = set[int]()
        for number in _in_order(wanted, look.standing):
            first.add(number)
            yield from _written(look.standing, number, look.kept[number])
        yield landmark(PREFETCH_LANDMARK)
        with open_entries() as entries:
            for number, entry in enumerate(drop_reserved(entries)):
                if number not in first:
                    yield from _written(look.standing, number, entry)


def _written(standing: Standing, number: int, entry: TarEntry) -> Iterator[TarEntry]:
    found = standing.written(number, entry)
    if found is not None:
        yield found


def _in_order(wanted: Wanted, standing: Standing) -> Iterator[int]:
    """The numbers of the entries that come first."""
    done: set[str] = set()
    for name in wanted.order(standing.names):
        for found in _needed(name, standing):
            if found not in done:
                done.add(found)
                yield standing.names[found]


def _needed(name: str, standing: Standing) -> Iterator[str]:
    """A name after all that it needs: what it is a hard link to, and the parents of both, so far as they stand."""
    going, chain = name, list[str]()
    while going in standing.names and going not in chain:
        chain.append(going)
        going = standing.targets.get(standing.names[going], going)
    for link in reversed(chain):
        yield from (parent for parent in parents(link) if parent in standing.names)
        yield link


def _look(open_entries: Opener, wanted: Wanted, spool: IO[bytes]) -> _Look:
    """Read a layer until all that is wanted, and what that needs, is at hand."""
    listed, extra = set(wanted.names), set[int]()
    while True:
        look = _Look(Standing(), {})
        with open_entries() as entries:
            for number, entry in enumerate(drop_reserved(entries)):
                look.standing.add(number, entry)
                if number in extra or entry.name in listed or wanted.matches(entry.name):
                    look.kept[number] = _spooled(entry, spool) if entry.info.isreg() else _bare(entry)
                elif entry.info.isdir():
                    # it may be the parent of what is wanted
                    look.kept[number] = _bare(entry)
        look.standing.finish()
        needed = set(_in_order(wanted, look.standing))
        if look.standing.trouble is not None or needed <= look.kept.keys():
            return look
        extra |= needed


def _bare(entry: TarEntry) -> TarEntry:
    return TarEntry(entry.info, raw=entry.raw)


def _spooled(entry: TarEntry, spool: IO[bytes]) -> TarEntry:
    """The entry, its bytes at the end of the spool."""
    spool.seek(0, 2)
    start, left = spool.tell(), entry.info.size
    with entry.open_payload() as payload:
        while left:
            piece = payload.read(min(left, _PIECE))
            if not piece:
                raise FormatError(f"{entry.name!r} ends {left} bytes before its size")
            _keep(piece, spool)
            left -= len(piece)
    return TarEntry(entry.info, lambda: cast(IO[bytes], _Slice(spool, start)), entry.raw)


def _keep(piece: bytes, spool: IO[bytes]) -> None:
    try:
        spool.write(piece)
    except OSError as error:
        where = tempfile.gettempdir()
        raise CrfsError(f"{where}: no place for the files that come first: {error.strerror}") from error


class _Slice:
    """Reads on in a file from `start`."""

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._at = start

    def read(self, size: int) -> bytes:
        self._file.seek(self._at)
        found = self._file.read(size)
        self._at += len(found)
        return found

    def __enter__(self) -> "_Slice":
        return self

    def __exit__(self, *_: object) -> None:
        """The file is its owner's."""
