"""In which order a layer's entries are written: what is wanted first, then a landmark, then the rest."""

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

from crfs.convert.entries import TarEntry, clean_name
from crfs.formats.toc import LANDMARKS, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TOC_NAME

_CONTENT = b"\x0f"


def drop_reserved(entries: Iterable[TarEntry]) -> Iterator[TarEntry]:
    """`entries` without those that an earlier conversion added."""
    reserved = (TOC_NAME, *LANDMARKS)
    return (entry for entry in entries if entry.name not in reserved)


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
        yield from take(clean_name(name), rest)
    yield landmark(PREFETCH_LANDMARK)
    yield from rest.values()


def take(name: str, rest: dict[str, TarEntry]) -> Iterator[TarEntry]:
    """`name` out of `rest`, after all that it needs."""
    parts = name.split("/")
    needed = ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))]
    for parent in needed:
        if parent in rest and name in rest:
            yield rest.pop(parent)
    entry = rest.pop(name, None)
    if entry is None:
        return
    if entry.info.islnk():
        yield from take(clean_name(entry.info.linkname), rest)
    yield entry


def landmark(name: str) -> TarEntry:
    info = tarfile.TarInfo(name)
    info.size = len(_CONTENT)
    return TarEntry(info, lambda: BytesIO(_CONTENT))
