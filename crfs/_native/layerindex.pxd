from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs._native.index cimport Chunk

cdef enum Kind:
    KIND_NODE = 0
    KIND_HARDLINK = 1
    KIND_WHITEOUT = 2
    KIND_OPAQUE = 3

# heap offsets; path and link are cleaned for hard links, raw for symlinks
cdef struct Record:
    uint64_t size
    int64_t mtime_ns
    uint64_t path_off
    uint64_t link_off
    uint64_t xattr_off
    uint32_t path_len
    uint32_t link_len
    uint32_t xattr_len
    uint32_t mode
    uint32_t uid
    uint32_t gid
    uint32_t rdev
    uint32_t chunk_first
    uint32_t chunk_count
    uint32_t kind

cdef class LayerIndex:
    cdef vector[Record] records
    cdef vector[Chunk] chunks
    cdef string heap
    cdef bint sealed
    # the entry added last was a mark or reserved, and so are its chunks
    cdef bint in_mark
    cdef void expect(self, size_t records, size_t heap) noexcept nogil
    cdef uint64_t _put(self, const char *data, size_t size) noexcept nogil
    cdef bint take(self, Record *record, const char *path, const char *link) noexcept nogil
    cdef bint take_chunk(self, Chunk *chunk) noexcept nogil
    cdef void _keep(self, Record *record, const char *path, const char *link) noexcept nogil
    cdef int _add_mark(self, bytes path) except -1
    cdef object _chunk_refusal(self, const Chunk *chunk)
    cdef uint64_t _end_members(self, uint64_t data_end) noexcept nogil
    cpdef add(self, bytes path, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t size, int64_t mtime_ns,
              uint32_t rdev, bytes link, xattrs)
    cpdef add_hardlink(self, bytes path, bytes target)
    cpdef add_chunk(self, uint64_t file_off, uint64_t size, uint64_t blob_off, uint64_t inner_off, digest)

cdef enum:
    IS_TIME = 0
    NO_TIME = 1
    NO_ZONE = 2

cdef int read_time(const unsigned char *at, Py_ssize_t length, int64_t *ns) noexcept nogil
cpdef int64_t parse_time(str text) except? -1
