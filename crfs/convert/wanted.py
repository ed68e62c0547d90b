"""Which files of a layer come first, and how a layer that only comes as a stream is brought in that order.

The stream is read twice: once for what is wanted, which is kept (in memory, then in a temporary file), and once
for the rest. Where a wanted name turns out to need another one (the target of a hard link), once more.
"""

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

import msgspec

from crfs.convert.entries import TarEntry, clean_name
from crfs.convert.order import drop_reserved, landmark, link_target, take
from crfs.errors import CrfsError, FormatError, UsageError
from crfs.formats.toc import PREFETCH_LANDMARK

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


class _Name(msgspec.Struct, frozen=True, gc=False):
    """A name of the layer, and what it is a hard link to, if it is one."""

    name: str
    target: str | None


class _Look(msgspec.Struct, frozen=True):
    """A layer that was read once: its names by their last entry, how many each had, and what is at hand whole."""

    names: dict[str, _Name]
    counts: dict[str, int]
    kept: dict[str, TarEntry]


def iter_wanted_first(open_entries: Opener, wanted: Wanted) -> Generator[TarEntry, None, None]:
    """What is wanted, each after what it needs, then the landmark, then the rest, of a layer's entries.

    Of several entries of one name, only the last is kept. `open_entries` is called two or three times.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        look = _look(open_entries, wanted, spool)
        rest = dict(look.names)
        for found in _in_order(wanted, look, rest):
            yield look.kept[found]
        yield landmark(PREFETCH_LANDMARK)
        left = {name: look.counts[name] for name in rest}
        with open_entries() as entries:
            for entry in entries:
                if entry.name in left:
                    left[entry.name] -= 1
                    if not left[entry.name]:
                        yield entry


def _in_order(wanted: Wanted, look: _Look, rest: dict[str, _Name]) -> Iterator[str]:
    """The names that come first, taken out of `rest`."""
    for name in wanted.order(look.names):
        for found in take(name, rest, lambda one: one.target):
            yield found.name


def _look(open_entries: Opener, wanted: Wanted, spool: IO[bytes]) -> _Look:
    """Read a layer until all that is wanted, and what that needs, is at hand."""
    extra = set(wanted.names)
    while True:
        look = _Look({}, {}, {})
        with open_entries() as entries:
            for entry in drop_reserved(entries):
                _note(look, entry, spool, entry.name in extra or wanted.matches(entry.name))
        needed = set(_in_order(wanted, look, dict(look.names)))
        if needed <= look.kept.keys():
            return look
        extra |= needed


def _note(look: _Look, entry: TarEntry, spool: IO[bytes], whole: bool) -> None:
    name = entry.name
    look.counts[name] = look.counts.get(name, 0) + 1
    look.names.pop(name, None)
    look.names[name] = _Name(name, link_target(entry))
    look.kept.pop(name, None)
    if whole and entry.info.size and entry.info.isreg():
        look.kept[name] = _spooled(entry, spool)
    elif whole or entry.info.isdir():
        # a directory may be the parent of what is wanted
        look.kept[name] = TarEntry(entry.info, raw=entry.raw)


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
