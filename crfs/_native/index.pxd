from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# A tree image: Header, then inodes, dentries, chunks, order, rank, heap, each at a multiple of 8.
# inodes are in breadth-first order, so the dentries of a directory lie side by side, sorted by name.
cdef struct Header:
    char magic[8]
    uint32_t version
    uint32_t inodes
    uint32_t dentries
    uint32_t chunks
    uint64_t heap
    uint64_t file_bytes
    uint64_t xattr_inodes

# first, count: chunks of a file, dentries of a directory, heap bytes of a symlink's target
cdef struct Inode:
    uint64_t size
    int64_t mtime_ns
    uint32_t mode
    uint32_t uid
    uint32_t gid
    uint32_t nlink
    uint32_t rdev
    uint32_t parent
    uint32_t first
    uint32_t count
    uint32_t xattr_off
    uint32_t xattr_len

cdef struct Dentry:
    uint32_t name_off
    uint32_t name_len
    uint32_t inode

cdef struct Chunk:
    uint64_t file_off
    uint64_t size
    uint64_t blob_off
    uint64_t blob_end
    uint64_t inner_off
    uint8_t digest[32]
    uint32_t inode
    uint16_t layer
    uint16_t has_digest

cdef inline uint64_t padded(uint64_t size) noexcept nogil:
    return (size + 7) & ~(<uint64_t>7)

cdef class Tree:
    cdef Py_buffer buffer
    cdef const Header *header
    cdef const Inode *inode_table
    cdef const Dentry *dentry_table
    cdef const Chunk *chunk_table
    cdef const uint32_t *order
    cdef const uint32_t *rank
    cdef const unsigned char *heap
    cdef bint is_sound(self) noexcept nogil
    cdef bint is_sound_place(self, uint32_t inode) noexcept nogil
    cdef bint are_sound_dentries(self, uint32_t inode) noexcept nogil
    cdef bint are_sound_chunks(self, uint32_t inode) noexcept nogil
    cdef bint are_sound_xattrs(self, const Inode *at) noexcept nogil
    cdef const Inode *get(self, uint64_t inode) except NULL
    cdef uint32_t first_at(self, const Inode *at, uint64_t off) noexcept nogil
    cdef const Chunk *get_chunk(self, uint32_t chunk) except NULL
    cdef bint same_member(self, uint32_t chunk, const Chunk *at) noexcept
    cdef bint is_near(self, const Chunk *other, const Chunk *at, uint64_t away, uint64_t reach,
                      uint64_t nearby, uint64_t largest) noexcept
