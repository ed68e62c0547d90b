"""The entries of a stargz, eStargz or zstd:chunked TOC into a layer index: what the TOC says is checked here, one by one. Pure.

In C because a mount waits for it: half of the time to index a TOC went into Python's attribute look-ups.
"""

import os
import stat
from binascii import unhexlify

from libc.stdint cimport uint32_t

from crfs._native.layerindex cimport LayerIndex, parse_time

from crfs.errors import FormatError

cdef dict TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


class LossyTocError(FormatError):
    """The TOC's JSON has lost names that are not UTF-8: only the tar itself still knows them."""


cdef class _Filler:
    """Feeds entries to an index. A `chunk` belongs to the last `reg` before it, whatever its own name."""

    cdef LayerIndex index
    cdef object hidden
    # of the last `reg`; -1 where there is none
    cdef object size
    # how many of its bytes its chunks hold so far
    cdef object covered
    cdef str name
    cdef bint skipping
    # of the files that are not shown: where in the blob they begin
    cdef dict places

    def __cinit__(self, LayerIndex index, hidden):
        self.index, self.hidden, self.size, self.covered, self.name = index, hidden, -1, 0, ""
        self.skipping = False
        self.places = {}

    cdef int add(self, entry) except -1:
        cdef str kind = entry.type, name = entry.name, link
        cdef bytes path
        if kind == "chunk":
            if self.size < 0:
                raise FormatError(f"the TOC has a chunk of {name!r} before any file")
            if not self.skipping:
                self.add_chunk(entry, entry.chunk_digest)
            return 0
        self.finish_file()
        size = entry.size
        self.skipping = name.removeprefix("./").removeprefix("/") in self.hidden
        self.size, self.covered, self.name = size if kind == "reg" else -1, 0, name
        if self.skipping and kind == "reg":
            # whatever it says of itself
            self.size = 0
            self.places[name.removeprefix("./").removeprefix("/")] = entry.offset
        if self.skipping:
            return 0
        link = entry.link_name
        if "\ufffd" in name or "\ufffd" in link:
            raise LossyTocError("the TOC has lost names that are not UTF-8")
        path = name.encode()
        if kind == "hardlink":
            self.index.add_hardlink(path, link.encode())
            return 0
        self.add_node(path, kind, link.encode(), entry)
        if kind == "reg" and size:
            digest = entry.chunk_digest
            if not digest and entry.chunk_size in (0, size):
                # a file's digest is its only chunk's; a file of several chunks has none that fits one of them
                digest = entry.digest
            self.add_chunk(entry, digest)
        return 0

    cdef int finish_file(self) except -1:
        """To be called behind a file's last chunk: what none of them holds would read as zeros."""
        if self.covered < self.size:
            raise FormatError(f"the TOC has chunks for {self.covered} of the {self.size} bytes of {self.name!r}")
        return 0

    cdef int add_node(self, bytes path, str kind, bytes link, entry) except -1:
        cdef object rdev = 0, xattrs = None
        try:
            mode = TYPES[kind]
        except KeyError as error:
            raise FormatError(f"the TOC gives {entry.name!r} the unknown type {kind!r}") from error
        if kind == "char" or kind == "block":
            rdev = _device(entry)
        if entry.xattrs:
            xattrs = {key.encode(): value for key, value in entry.xattrs.items()}
        try:
            self.index.add(path, mode | entry.mode & 0o7777, entry.uid, entry.gid, entry.size,
                           parse_time(entry.modtime), rdev, link, xattrs)
        except OverflowError as error:
            raise FormatError(f"the TOC gives {entry.name!r} an impossible number: {error}") from error
        return 0

    cdef int add_chunk(self, entry, str digest) except -1:
        cdef str kind = entry.chunk_type
        offset, file_off, size = entry.offset, entry.chunk_offset, entry.chunk_size
        if kind and kind != "zeros":
            raise FormatError(f"the TOC gives a chunk of {self.name!r} the unknown type {kind!r}")
        if not offset and not kind:
            raise FormatError(f"the TOC gives {entry.name!r} a size but no offset")
        if file_off > self.covered:
            raise FormatError(f"the TOC has no chunk for the bytes of {self.name!r} from {self.covered} on")
        # a size of 0 means: up to the file's end
        size = size or self.size - file_off
        if file_off < self.covered or (kind and not 0 < size <= self.size - file_off):
            raise FormatError(f"a chunk of {self.name!r} lies outside of the file or overlaps another")
        self.covered = file_off + size
        if kind:
            # what no chunk covers reads as zeros
            return 0
        try:
            self.index.add_chunk(file_off, size, offset, entry.inner_offset, _sha256(digest))
        except OverflowError as error:
            raise FormatError(f"the TOC gives a chunk of {entry.name!r} an impossible place") from error
        return 0


cdef object _device(entry):
    try:
        return os.makedev(entry.dev_major, entry.dev_minor)
    except OverflowError as error:
        raise FormatError(f"the TOC gives {entry.name!r} an impossible device number") from error


cdef object _sha256(str digest):
    """The 32 bytes of "sha256:..."; None where there is no digest."""
    if not digest:
        return None
    if len(digest) == 71 and digest.startswith("sha256:"):
        try:
            return unhexlify(digest[7:])
        except ValueError:
            pass
    raise FormatError(f"the TOC has a digest that is no SHA-256: {digest[:80]!r}")


def fill_index(LayerIndex index, entries, hidden):
    """Add the entries of a TOC, in its order, but for the files that are called as one in `hidden`.

    FormatError where the TOC breaks a rule of docs/estargz.md or speaks of what no tree can hold;
    LossyTocError where it names a file that its producer could not spell. Returns where the hidden files begin.
    """
    cdef _Filler filler = _Filler(index, hidden)
    for entry in entries:
        filler.add(entry)
    filler.finish_file()
    return filler.places
