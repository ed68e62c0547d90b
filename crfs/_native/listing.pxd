from libc.stdint cimport uint32_t, uint64_t

from crfs._native.protocol cimport fuse_entry_out

cdef class Listing:
    cdef bytearray data
    cdef Py_ssize_t filled
    cdef readonly bint plus

    cdef Py_ssize_t taken(self, Py_ssize_t name_size) noexcept
    cdef int put(
        self, bytes name, uint64_t off, uint64_t ino, uint32_t mode, const fuse_entry_out *entry
    ) except -1
