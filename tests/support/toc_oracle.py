"""The rules of a TOC in plain Python: what crfs._native.tocindex is compared with."""

import os
import stat
from binascii import unhexlify

from crfs._native.layerindex import LayerIndex, parse_time
from crfs.errors import FormatError
from crfs.formats.toc import RESERVED_NAMES, TocEntry, iter_toc

_TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}

# U+FFFD, raw and as Go and others escape it
_REPLACED = ("\ufffd".encode(), rb"\ufffd", rb"\uFFFD")


class LossyTocError(FormatError):
    """The TOC's JSON has lost names that are not UTF-8: only the tar itself still knows them."""


def index_toc(json: bytes, toc_off: int) -> LayerIndex:
    """The index of a layer whose data ends at `toc_off`, from its TOC.

    FormatError where the TOC breaks a rule of docs/estargz.md or speaks of what no tree can hold;
    LossyTocError where it names a file that its producer could not spell.
    """
    if any(mark in json for mark in _REPLACED):
        raise LossyTocError("the TOC has lost names that are not UTF-8")
    builder = _Builder()
    for entry in iter_toc(json):
        builder.add(entry)
    builder.index.seal(toc_off)
    return builder.index


class _Builder:
    """Feeds entries to an index. A `chunk` belongs to the last `reg` before it, whatever its own name."""

    def __init__(self) -> None:
        self.index = LayerIndex()
        self._size = -1
        self._hidden = False

    def add(self, entry: TocEntry) -> None:
        """Add one entry of the TOC."""
        if entry.type == "chunk":
            if self._size < 0:
                raise FormatError(f"the TOC has a chunk of {entry.name!r} before any file")
            self._add_chunk(entry, entry.chunk_digest)
            return
        name = entry.name
        self._hidden = name.removeprefix("./").removeprefix("/") in RESERVED_NAMES
        self._size = entry.size if entry.type == "reg" else -1
        if self._hidden:
            return
        path = name.encode()
        if entry.type == "hardlink":
            self.index.add_hardlink(path, entry.link_name.encode())
            return
        self._add_node(path, entry)
        if entry.type == "reg" and entry.size:
            self._add_chunk(entry, entry.chunk_digest or self._whole_digest(entry))

    def _add_node(self, path: bytes, entry: TocEntry) -> None:
        try:
            kind = _TYPES[entry.type]
            xattrs = {key.encode(): value for key, value in (entry.xattrs or {}).items()}
            rdev = os.makedev(entry.dev_major, entry.dev_minor) if entry.dev_major or entry.dev_minor else 0
            self.index.add(
                path,
                kind | entry.mode & 0o7777,
                entry.uid,
                entry.gid,
                entry.size,
                parse_time(entry.modtime),
                rdev,
                entry.link_name.encode(),
                xattrs or None,
            )
        except KeyError as error:
            raise FormatError(f"the TOC gives {entry.name!r} the unknown type {entry.type!r}") from error
        except (OverflowError, ValueError) as error:
            raise FormatError(f"the TOC gives {entry.name!r} an impossible number: {error}") from error

    def _whole_digest(self, entry: TocEntry) -> str:
        """A file's digest is its only chunk's; a file of several chunks has none that fits one of them."""
        return entry.digest if entry.chunk_size in (0, entry.size) else ""

    def _add_chunk(self, entry: TocEntry, digest: str) -> None:
        if self._hidden:
            return
        if not entry.offset:
            raise FormatError(f"the TOC gives {entry.name!r} a size but no offset")
        # 0 means: up to the file's end
        size = entry.chunk_size or self._size - entry.chunk_offset
        try:
            self.index.add_chunk(
                entry.chunk_offset, size, entry.offset, entry.inner_offset, _parse_sha256(digest)
            )
        except OverflowError as error:
            raise FormatError(f"the TOC gives a chunk of {entry.name!r} an impossible place") from error


def _parse_sha256(digest: str) -> bytes | None:
    """The 32 bytes of "sha256:..."; None where there is no digest."""
    if not digest:
        return None
    algorithm, _, text = digest.partition(":")
    try:
        raw = unhexlify(text)
    except ValueError as error:
        raise FormatError(f"the TOC has a malformed digest {digest[:80]!r}") from error
    if algorithm != "sha256" or len(raw) != 32:
        raise FormatError(f"the TOC has a digest that is no SHA-256: {digest[:80]!r}")
    return raw
