from libc.stdint cimport uint64_t

from crfs._native.lowerfiles cimport LowerFile
from crfs._native.protocol cimport fuse_entry_out
from crfs._native.system cimport stat_t

cdef bint answer(int device, char *request, size_t size) noexcept nogil
cdef bint leave_file(
    uint64_t ino, const LowerFile *file, uint64_t changes, const stat_t *info, fuse_entry_out *told
) noexcept
