from libc.stdint cimport int64_t, uint32_t, uint64_t

from crfs._native.system cimport stat_t

cdef class Status:
    cdef readonly uint64_t st_dev
    cdef readonly uint64_t st_ino
    cdef readonly uint32_t st_mode
    cdef readonly uint64_t st_nlink
    cdef readonly uint32_t st_uid
    cdef readonly uint32_t st_gid
    cdef readonly uint64_t st_rdev
    cdef readonly int64_t st_size
    cdef readonly int64_t st_blocks
    cdef readonly int64_t st_atime_ns
    cdef readonly int64_t st_mtime_ns
    cdef readonly int64_t st_ctime_ns

cdef Status status_of(const stat_t *info)
