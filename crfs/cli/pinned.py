"""Sources that lead to the same image wherever a tag leads by then, and whatever the current directory is."""

import os

from msgspec.structs import replace

from crfs.formats.reference import ArchiveReference, FileSource, ImageReference, LayoutReference, Source


def pinned(source: Source, digest: str | None) -> Source:
    """The same with the digest of the image that it is, where that is known, and an absolute path."""
    match source:
        case ImageReference():
            return replace(source, digest=digest or source.digest)
        case LayoutReference():
            found = digest or source.digest
            name = None if found else source.name
            return LayoutReference(os.path.abspath(source.directory), name, found)
        case ArchiveReference() | FileSource():
            return replace(source, path=os.path.abspath(source.path))
        case _:
            return source
