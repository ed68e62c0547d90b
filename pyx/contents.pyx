"""Which files of which images are the same: a name for the bytes of each file in a tree, and the way back.

    ab/abcd...          a file that is one chunk: the SHA-256 of its bytes
    ab/abcd....parts    any other: the SHA-256 of the list of its chunks, each by its digest, or by layer and place

A file of several chunks has no digest of its own in a tree, and one of a layer without a TOC none at all. Both kinds of
name say all about the bytes, but bytes can't be found that are such a list, hence the suffix. Any thread.
"""

from libc.string cimport memcmp, memcpy
from libcpp.algorithm cimport lower_bound, sort

from crfs._native.index cimport Chunk, Inode

cdef extern from "openssl/sha.h" nogil:
    unsigned char *SHA256(const unsigned char *, size_t, unsigned char *)


cdef uint32_t S_IFMT = 0o170000
cdef uint32_t S_IFREG = 0o100000
cdef const char *HEX = b"0123456789abcdef"
cdef const char *SUFFIX = b".parts"
# two digits, a slash, 64 digits
cdef size_t PLAIN = 67
cdef size_t SUFFIXED = 73


cdef bint _by_key(const Named &a, const Named &b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.inode < b.inode)


cdef uint64_t _key(const unsigned char *found) noexcept nogil:
    cdef uint64_t key
    memcpy(&key, found, sizeof(key))
    return key


cdef void _append_number(string *out, uint64_t number) noexcept nogil:
    out.append(<const char *>&number, sizeof(number))


cdef class Contents:
    """The contents of a tree's files. `layers`: what each layer is known by to all images, bottom first."""

    def __init__(self, Tree tree, layers):
        self.tree = tree
        for layer in layers:
            self.layers.push_back(<bytes?>layer)
        # chunks in `order` lie by layers: of a mapped tree, no more than this one is read
        cdef uint32_t count = tree.header.chunks
        if count and tree.chunk_table[tree.order[count - 1]].layer >= self.layers.size():
            raise IndexError(f"no name for layer {tree.chunk_table[tree.order[count - 1]].layer}")

    def name(self, uint64_t inode):
        """What the content of a file is called; None where there is none, or nothing but a hole."""
        cdef char text[NAME_MAX]
        cdef size_t length
        self.tree.get(inode)
        length = self.put_name(<uint32_t>(inode - 1), text)
        return <bytes>text[:length] if length else None

    def find(self, bytes name):
        """A file with the content of that name, or 0."""
        cdef size_t length = <size_t>len(name)
        cdef bint whole = length == PLAIN
        cdef const char *text = name
        if not (whole or (length == SUFFIXED and name.endswith(SUFFIX))) or text[2] != 47 or memcmp(text, text + 3, 2):
            return 0
        try:
            wanted = bytes.fromhex(text[3:PLAIN].decode("ascii"))
        except ValueError:
            return 0
        if len(wanted) != 32:
            return 0
        if not self.ready:
            with nogil:
                self.sort_all()
            self.ready = True
        return self.search(<const unsigned char *><const char *>wanted, whole)

    cdef size_t put_name(self, uint32_t inode, char *out) noexcept nogil:
        """Write the name of a content to `out`, which has room for the longest; its length, or 0 for none."""
        cdef unsigned char found[32]
        cdef size_t i
        if not self.put_hash(inode, found):
            return 0
        for i in range(32):
            out[3 + 2 * i], out[4 + 2 * i] = HEX[found[i] >> 4], HEX[found[i] & 15]
        out[0], out[1], out[2] = out[3], out[4], 47
        if self.is_whole(inode):
            return PLAIN
        memcpy(out + PLAIN, SUFFIX, SUFFIXED - PLAIN)
        return SUFFIXED

    cdef bint is_whole(self, uint32_t inode) noexcept nogil:
        """Whether the file is one chunk whose digest is known."""
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef const Chunk *chunk = &self.tree.chunk_table[at.first]
        return at.count == 1 and chunk.has_digest and chunk.file_off == 0 and chunk.size == at.size

    cdef bint put_hash(self, uint32_t inode, unsigned char *out) noexcept nogil:
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef const Chunk *chunk
        cdef string parts
        cdef uint32_t i
        if at.mode & S_IFMT != S_IFREG or at.size == 0 or at.count == 0:
            return False
        if self.is_whole(inode):
            memcpy(out, self.tree.chunk_table[at.first].digest, 32)
            return True
        _append_number(&parts, at.size)
        for i in range(at.first, at.first + at.count):
            chunk = &self.tree.chunk_table[i]
            _append_number(&parts, chunk.file_off)
            _append_number(&parts, chunk.size)
            if chunk.has_digest:
                _append_number(&parts, 0)
                parts.append(<const char *>chunk.digest, 32)
            else:
                _append_number(&parts, self.layers[chunk.layer].size())
                parts.append(self.layers[chunk.layer])
                _append_number(&parts, chunk.blob_off)
                _append_number(&parts, chunk.inner_off)
        SHA256(<const unsigned char *>parts.data(), parts.size(), out)
        return True

    cdef void sort_all(self) noexcept nogil:
        cdef unsigned char found[32]
        cdef uint32_t i
        self.table.clear()
        for i in range(self.tree.header.inodes):
            if self.put_hash(i, found):
                self.table.push_back(Named(_key(found), i))
        sort(self.table.begin(), self.table.end(), &_by_key)

    cdef uint32_t search(self, const unsigned char *wanted, bint whole) noexcept nogil:
        cdef Named first = Named(_key(wanted), 0)
        cdef unsigned char found[32]
        cdef size_t i = lower_bound(self.table.begin(), self.table.end(), first, &_by_key) - self.table.begin()
        while i < self.table.size() and self.table[i].key == first.key:
            self.put_hash(self.table[i].inode, found)
            if memcmp(found, wanted, 32) == 0 and self.is_whole(self.table[i].inode) == whole:
                return self.table[i].inode + 1
            i += 1
        return 0
