"""Entries that only lazy formats have, the TOC and the landmarks: those of an earlier conversion, and new ones."""

import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO

from crfs.convert.entries import TarEntry
from crfs.errors import NotLazyError
from crfs.formats.toc import LANDMARKS, RESERVED_NAMES, TOC_NAME

_CONTENT = b"\x0f"


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


def landmark(name: str) -> TarEntry:
    """One of LANDMARKS, to be put where what is to be prefetched ends."""
    info = tarfile.TarInfo(name)
    info.size = len(_CONTENT)
    return TarEntry(info, lambda: BytesIO(_CONTENT))
