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
