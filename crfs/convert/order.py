"""In which order a layer's entries are written: what is wanted first, then a landmark, then the rest."""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from typing import TypeVar

from crfs.convert.entries import TarEntry, clean_name
from crfs.errors import NotLazyError
from crfs.formats.toc import LANDMARKS, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, RESERVED_NAMES, TOC_NAME

_CONTENT = b"\x0f"
T = TypeVar("T")


def drop_reserved(entries: Iterable[TarEntry]) -> Iterator[TarEntry]:
    """`entries` without those that an earlier conversion added; NotLazyError as check_reserved() raises it."""
    return (entry for entry in check_reserved(entries) if entry.name not in RESERVED_NAMES)


def check_reserved(entries: Iterable[TarEntry]) -> Iterator[TarEntry]:
    """All of `entries`; then NotLazyError where one has a reserved name, but was not put there by a conversion.

    Those that an earlier conversion added are landmarks of one byte, or end with the TOC.
    """
    met, name = None, ""
    for entry in entries:
        name = entry.name
        if name in RESERVED_NAMES and not is_landmark(entry):
            met = name
        yield entry
    if met is not None and name != TOC_NAME:
        raise NotLazyError(f"it has a file {met!r} of its own, which readers of a TOC don't show")


def is_landmark(entry: TarEntry) -> bool:
    """Whether an entry is one as docs/estargz.md wants it."""
    return entry.name in LANDMARKS and entry.info.isreg() and entry.info.size == len(_CONTENT)


def with_landmark(entries: Iterable[TarEntry], prioritized: Sequence[str]) -> Iterator[TarEntry]:
    """`entries` in the order in which to write them, with the landmark that tells readers what to prefetch.

    Without `prioritized` names they come as they are. With some, those come first, in the order of the names,
    each after its parents and after the target of a hard link; names that the layer lacks are passed over. Of
    several entries of one name, only the last is kept then.
    """
    if not prioritized:
        yield landmark(NO_PREFETCH_LANDMARK)
        yield from entries
        return
    rest: dict[str, TarEntry] = {}
    for entry in entries:
        rest.pop(entry.name, None)
        rest[entry.name] = entry
    for name in prioritized:
        yield from take(clean_name(name), rest, link_target)
    yield landmark(PREFETCH_LANDMARK)
    yield from rest.values()


def link_target(entry: TarEntry) -> str | None:
    """What a hard link is one to; None for all else."""
    return clean_name(entry.info.linkname) if entry.info.islnk() else None


def take(name: str, rest: dict[str, T], target: Callable[[T], str | None]) -> Iterator[T]:
    """`name` out of `rest`, after all that it needs: its parents, and what it is a hard link to."""
    parts = name.split("/")
    needed = ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))]
    for parent in needed:
        if parent in rest and name in rest:
            yield rest.pop(parent)
    if name not in rest:
        return
    found = rest.pop(name)
    if (other := target(found)) is not None:
        yield from take(other, rest, target)
    yield found


def landmark(name: str) -> TarEntry:
    info = tarfile.TarInfo(name)
    info.size = len(_CONTENT)
    return TarEntry(info, lambda: BytesIO(_CONTENT))
