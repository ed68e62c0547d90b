from libc.stdint cimport uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs._native.index cimport Tree

# the first bytes of a content's hash, and a file that has it
cdef struct Named:
    uint64_t key
    uint32_t inode

cdef class Contents:
    cdef Tree tree
    cdef vector[string] layers
    cdef vector[Named] table
    cdef bint ready
    cdef size_t put_name(self, uint32_t inode, char *out) noexcept nogil
    cdef bint put_hash(self, uint32_t inode, unsigned char *out) noexcept nogil
    cdef void sort_all(self) noexcept nogil
    cdef uint32_t search(self, const unsigned char *wanted, bint whole) noexcept nogil
    cdef bint is_whole(self, uint32_t inode) noexcept nogil

# the longest that put_name() writes
cdef enum:
    NAME_MAX = 73
