"""A merged tree, read in place from its image: (inode, name) -> inode, (inode, file offset) -> chunk, attributes.

The image (index.pxd) may be mapped from a file; nothing is copied or parsed. Immutable: any thread may read.
An inode is named by the number that stat shows, from 1 for the root; a chunk by its place in the table.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memcmp

from crfs.errors import FormatError

cdef uint32_t S_IFMT = 0o170000
cdef uint32_t S_IFDIR = 0o040000
cdef uint32_t S_IFREG = 0o100000
cdef uint32_t S_IFLNK = 0o120000

Attributes = namedtuple("Attributes", "mode nlink uid gid rdev size mtime_ns")
ChunkTuple = namedtuple("Chunk", "id file_off size layer blob_off blob_end inner_off digest")
globals()["Chunk"] = ChunkTuple


cdef class Tree:
    """Lookups in a tree image. IndexError for a number that names no inode or chunk."""

    def __cinit__(self, image, *, sound=False):
        PyObject_GetBuffer(image, &self.buffer, PyBUF_SIMPLE)

    def __dealloc__(self):
        if self.buffer.obj is not None:
            PyBuffer_Release(&self.buffer)

    def __init__(self, image, *, sound=False):
        """Lay the columns over `image`; FormatError if they do not fit it or point outside of it.

        `sound`: the bytes are known to be those that merge() made, so that no table need be read through.
        """
        cdef const char *at = <const char *>self.buffer.buf
        cdef uint64_t off = padded(sizeof(Header)), total
        cdef bint is_sound = sound
        if <size_t>self.buffer.len < sizeof(Header):
            raise FormatError("the tree image is cut short")
        self.header = <const Header *>at
        if memcmp(self.header.magic, b"CRFSTREE", 8) or self.header.version != 2 or not self.header.inodes:
            raise FormatError("this is no tree image of this version")
        self.inode_table = <const Inode *>(at + off)
        off += padded(self.header.inodes * sizeof(Inode))
        self.dentry_table = <const Dentry *>(at + off)
        off += padded(self.header.dentries * sizeof(Dentry))
        self.chunk_table = <const Chunk *>(at + off)
        off += padded(self.header.chunks * sizeof(Chunk))
        self.order = <const uint32_t *>(at + off)
        off += padded(<uint64_t>self.header.chunks * 4)
        self.rank = <const uint32_t *>(at + off)
        off += padded(<uint64_t>self.header.chunks * 4)
        self.heap = <const unsigned char *>(at + off)
        total = off + padded(self.header.heap)
        if self.header.heap > <uint64_t>self.buffer.len or <uint64_t>self.buffer.len != total:
            raise FormatError("the tree image is cut short")
        if not is_sound:
            with nogil:
                is_sound = self.is_sound()
        if not is_sound:
            raise FormatError("the tree image is damaged")

    # one pass: afterwards, whatever a lookup follows is in its table, and every way up or down has an end

    cdef bint is_sound(self) noexcept nogil:
        """Whether all that the tables point to is there, and its directories are a tree as union numbers it."""
        cdef uint32_t i
        cdef uint64_t dentries = 0, chunks = 0
        cdef const Inode *at
        for i in range(self.header.inodes):
            at = &self.inode_table[i]
            if not self.is_sound_place(i) or not self.are_sound_xattrs(at):
                return False
            if at.mode & S_IFMT == S_IFDIR:
                if at.first != dentries or not self.are_sound_dentries(i):
                    return False
                dentries += at.count
            elif at.mode & S_IFMT == S_IFREG:
                if at.first != chunks or not self.are_sound_chunks(i):
                    return False
                chunks += at.count
            elif at.mode & S_IFMT == S_IFLNK and <uint64_t>at.first + at.count > self.header.heap:
                return False
        for i in range(self.header.chunks):
            if self.rank[i] >= self.header.chunks or self.order[self.rank[i]] != i:
                return False
        for i in range(1, self.header.chunks):
            if self.chunk_table[self.order[i - 1]].layer > self.chunk_table[self.order[i]].layer:
                return False
        return dentries == self.header.dentries and chunks == self.header.chunks

    cdef bint is_sound_place(self, uint32_t inode) noexcept nogil:
        """Whether an inode's parent is a directory of a lower number, or it is the root."""
        cdef uint32_t parent = self.inode_table[inode].parent
        if inode and parent >= inode:
            return False
        return (inode or not parent) and self.inode_table[parent].mode & S_IFMT == S_IFDIR

    cdef bint are_sound_dentries(self, uint32_t inode) noexcept nogil:
        cdef const Inode *at = &self.inode_table[inode]
        cdef const Dentry *dentry
        cdef uint64_t i
        if <uint64_t>at.first + at.count > self.header.dentries:
            return False
        for i in range(at.first, <uint64_t>at.first + at.count):
            dentry = &self.dentry_table[i]
            if dentry.inode >= self.header.inodes or <uint64_t>dentry.name_off + dentry.name_len > self.header.heap:
                return False
            if self.inode_table[dentry.inode].mode & S_IFMT == S_IFDIR and (
                    self.inode_table[dentry.inode].parent != inode or dentry.inode <= inode):
                return False
        return True

    cdef bint are_sound_chunks(self, uint32_t inode) noexcept nogil:
        cdef const Inode *at = &self.inode_table[inode]
        cdef const Chunk *chunk
        cdef uint64_t i, end = 0
        if <uint64_t>at.first + at.count > self.header.chunks:
            return False
        for i in range(at.first, <uint64_t>at.first + at.count):
            chunk = &self.chunk_table[i]
            if chunk.file_off < end or chunk.size > at.size or chunk.file_off > at.size - chunk.size:
                return False
            if chunk.size == 0 or chunk.blob_end <= chunk.blob_off or chunk.inode != inode:
                return False
            end = chunk.file_off + chunk.size
        return True

    cdef bint are_sound_xattrs(self, const Inode *at) noexcept nogil:
        cdef const unsigned char *data = self.heap + at.xattr_off
        cdef uint64_t off = 0
        if <uint64_t>at.xattr_off + at.xattr_len > self.header.heap:
            return False
        while off + 6 <= at.xattr_len:
            off += <uint64_t>6 + (data[off] | data[off + 1] << 8) + (
                data[off + 2] | data[off + 3] << 8 | data[off + 4] << 16 | <uint32_t>data[off + 5] << 24)
        return off == at.xattr_len

    cdef const Inode *get(self, uint64_t inode) except NULL:
        if not 1 <= inode <= self.header.inodes:
            raise IndexError(f"no inode {inode}")
        return &self.inode_table[inode - 1]

    @property
    def inodes(self):
        """How many inodes there are."""
        return self.header.inodes

    @property
    def chunks(self):
        """How many chunks there are."""
        return self.header.chunks

    @property
    def file_bytes(self):
        """Sum of the sizes of all regular files, in bytes."""
        return self.header.file_bytes

    @property
    def has_xattrs(self):
        """Whether any inode has an extended attribute."""
        return self.header.xattr_inodes > 0

    def find(self, uint64_t parent, bytes name):
        """The inode called `name` in the directory `parent`, or 0."""
        cdef const Inode *directory = self.get(parent)
        cdef uint32_t low = directory.first, high = low + directory.count, middle
        cdef const Dentry *dentry
        cdef uint32_t length = <uint32_t>len(name), common
        cdef const char *text = name
        cdef int order
        if directory.mode & S_IFMT != S_IFDIR:
            return 0
        while low < high:
            middle = low + (high - low) // 2
            dentry = &self.dentry_table[middle]
            common = length if length < dentry.name_len else dentry.name_len
            order = memcmp(text, self.heap + dentry.name_off, common)
            if order == 0 and length == dentry.name_len:
                return dentry.inode + 1
            if order < 0 or (order == 0 and length < dentry.name_len):
                high = middle
            else:
                low = middle + 1
        return 0

    def attributes(self, uint64_t inode):
        """What stat shows."""
        cdef const Inode *at = self.get(inode)
        return Attributes(at.mode, at.nlink, at.uid, at.gid, at.rdev, at.size, at.mtime_ns)

    def parent(self, uint64_t inode):
        """The directory in which the inode was first met; the root's is the root."""
        return self.get(inode).parent + 1

    def entries(self, uint64_t inode, uint32_t start, uint32_t limit):
        """(name, inode, mode) of a directory's names, `limit` at most, from the `start`-th on in byte order."""
        cdef const Inode *directory = self.get(inode)
        cdef const Dentry *dentry
        cdef uint32_t i
        cdef list found = []
        if directory.mode & S_IFMT != S_IFDIR:
            raise NotADirectoryError(inode)
        for i in range(start, <uint32_t>min(<uint64_t>directory.count, <uint64_t>start + limit)):
            dentry = &self.dentry_table[directory.first + i]
            name = <bytes>self.heap[dentry.name_off:dentry.name_off + dentry.name_len]
            found.append((name, dentry.inode + 1, self.inode_table[dentry.inode].mode))
        return found

    def readlink(self, uint64_t inode):
        """A symbolic link's target."""
        cdef const Inode *at = self.get(inode)
        if at.mode & S_IFMT != S_IFLNK:
            raise ValueError(f"inode {inode} is no symbolic link")
        return <bytes>self.heap[at.first:at.first + at.count]

    def xattrs(self, uint64_t inode):
        """All extended attributes."""
        cdef const Inode *at = self.get(inode)
        cdef const unsigned char *data = self.heap + at.xattr_off
        cdef uint32_t off = 0, name_len, value_len
        cdef dict found = {}
        while off < at.xattr_len:
            name_len = data[off] | data[off + 1] << 8
            value_len = data[off + 2] | data[off + 3] << 8 | data[off + 4] << 16 | <uint32_t>data[off + 5] << 24
            off += 6
            found[<bytes>data[off:off + name_len]] = <bytes>data[off + name_len:off + name_len + value_len]
            off += name_len + value_len
        return found

    def path(self, uint64_t inode):
        """One path of the inode, for messages; b"" for the root."""
        cdef list parts = []
        while inode > 1:
            parent = self.parent(inode)
            for name, child, _ in self.entries(parent, 0, 0xFFFFFFFF):
                if child == inode:
                    parts.append(name)
                    break
            inode = parent
        return b"/".join(reversed(parts))

    def paths(self, uint64_t inode):
        """All paths of an inode."""
        cdef uint32_t i, j, number = <uint32_t>(inode - 1)
        cdef const Inode *directory
        cdef const Dentry *dentry
        cdef list found = []
        self.get(inode)
        for i in range(self.header.inodes):
            directory = &self.inode_table[i]
            if directory.mode & S_IFMT != S_IFDIR:
                continue
            for j in range(directory.first, directory.first + directory.count):
                dentry = &self.dentry_table[j]
                if dentry.inode == number:
                    above = self.path(i + 1)
                    name = <bytes>self.heap[dentry.name_off:dentry.name_off + dentry.name_len]
                    found.append(above + b"/" + name if above else name)
        return found

    cdef uint32_t first_at(self, const Inode *at, uint64_t off) noexcept nogil:
        """The place in the table of a file's first chunk that ends behind `off`."""
        cdef uint32_t low = at.first, high = low + at.count, middle
        while low < high:
            middle = low + (high - low) // 2
            if self.chunk_table[middle].file_off + self.chunk_table[middle].size > off:
                high = middle
            else:
                low = middle + 1
        return low

    def cover(self, uint64_t inode, uint64_t off, uint64_t size):
        """(chunk, start, end) for the file's bytes [off, off + size), cut at its end: where in which chunk they lie.

        A hole is a chunk of -1. The lengths of all add up to what a read returns.
        """
        cdef const Inode *at = self.get(inode)
        cdef uint64_t end, until
        cdef uint32_t i, last = at.first + at.count
        cdef const Chunk *chunk
        cdef list found = []
        if at.mode & S_IFMT != S_IFREG:
            raise ValueError(f"inode {inode} is no regular file")
        if off >= at.size:
            return found
        end = off + min(size, at.size - off)
        i = self.first_at(at, off)
        while off < end:
            chunk = &self.chunk_table[i] if i < last else NULL
            if chunk == NULL or chunk.file_off > off:
                until = end if chunk == NULL else min(end, chunk.file_off)
                found.append((-1, 0, until - off))
            else:
                until = min(end, chunk.file_off + chunk.size)
                found.append((i, off - chunk.file_off, until - chunk.file_off))
                i += 1
            off = until
        return found

    def file_chunks(self, uint32_t chunk):
        """Ids of all chunks of the file that `chunk` belongs to, in the file's order."""
        cdef const Inode *file = &self.inode_table[self.get_chunk(chunk).inode]
        return range(file.first, file.first + file.count)

    cdef const Chunk *get_chunk(self, uint32_t chunk) except NULL:
        if chunk >= self.header.chunks:
            raise IndexError(f"no chunk {chunk}")
        return &self.chunk_table[chunk]

    def chunk(self, uint32_t chunk):
        """Where a chunk lies and what it holds."""
        cdef const Chunk *at = self.get_chunk(chunk)
        digest = <bytes>at.digest[:32] if at.has_digest else None
        return ChunkTuple(
            chunk, at.file_off, at.size, at.layer, at.blob_off, at.blob_end, at.inner_off, digest)

    def member(self, uint32_t chunk):
        """Ids of all chunks in the compressed member that holds `chunk`, as they lie in it."""
        cdef const Chunk *at = self.get_chunk(chunk)
        cdef uint32_t first = self.rank[chunk], last = first + 1
        while first and self.same_member(self.order[first - 1], at):
            first -= 1
        while last < self.header.chunks and self.same_member(self.order[last], at):
            last += 1
        return [self.order[i] for i in range(first, last)]

    cdef bint same_member(self, uint32_t chunk, const Chunk *at) noexcept:
        return self.chunk_table[chunk].layer == at.layer and self.chunk_table[chunk].blob_off == at.blob_off

    def owner(self, uint32_t chunk):
        """The inode of the chunk's file."""
        return self.get_chunk(chunk).inode + 1

    def directory(self, uint32_t chunk):
        """The inode of the directory that holds the chunk's file."""
        return self.inode_table[self.get_chunk(chunk).inode].parent + 1

    def stretch(self, uint32_t layer, uint64_t blob_off, uint32_t limit):
        """Ids of a layer's chunks in its blob's order, at most `limit`, from the first that begins at `blob_off` or behind."""
        cdef uint32_t low = 0, high = self.header.chunks, middle, i
        cdef const Chunk *at
        cdef list found = []
        while low < high:
            middle = low + (high - low) // 2
            at = &self.chunk_table[self.order[middle]]
            if at.layer > layer or (at.layer == layer and at.blob_off >= blob_off):
                high = middle
            else:
                low = middle + 1
        for i in range(low, self.header.chunks):
            if len(found) == limit or self.chunk_table[self.order[i]].layer != layer:
                break
            found.append(self.order[i])
        return found

    def around(self, uint32_t chunk, uint64_t reach, uint64_t nearby, uint64_t largest):
        """The neighbours of a chunk's member in its blob: (before, nearest first), (after, nearest first).

        One chunk id for each member. A side ends at the first member that reaches further than `reach` bytes
        from this one, is larger than `largest`, or begins, as met, with a file of another directory and
        reaches further than `nearby`.
        """
        cdef const Chunk *at = self.get_chunk(chunk)
        cdef int64_t i = self.rank[chunk]
        cdef uint64_t previous = at.blob_off
        cdef const Chunk *other
        cdef list before = [], after = []
        while i > 0:
            i -= 1
            other = &self.chunk_table[self.order[i]]
            if other.layer == at.layer and other.blob_off == previous:
                continue
            if not self.is_near(other, at, at.blob_off - other.blob_off, reach, nearby, largest):
                break
            before.append(self.order[i])
            previous = other.blob_off
        i, previous = self.rank[chunk], at.blob_off
        while i + 1 < self.header.chunks:
            i += 1
            other = &self.chunk_table[self.order[i]]
            if other.layer == at.layer and other.blob_off == previous:
                continue
            if not self.is_near(other, at, other.blob_end - at.blob_end, reach, nearby, largest):
                break
            after.append(self.order[i])
            previous = other.blob_off
        return before, after

    cdef bint is_near(self, const Chunk *other, const Chunk *at, uint64_t away, uint64_t reach,
                      uint64_t nearby, uint64_t largest) noexcept:
        if other.layer != at.layer or other.blob_end - other.blob_off > largest or away > reach:
            return False
        return away <= nearby or self.inode_table[other.inode].parent == self.inode_table[at.inode].parent
