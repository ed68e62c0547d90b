from libc.stdint cimport uint64_t
from libcpp.string cimport string

from crfs._native.system cimport stat_t

# a file of a lower directory, and that nobody but the kernel knows
cdef cppclass LowerFile:
    # the directory's number, and the name in it
    uint64_t parent
    uint64_t nlookup
    bint named
    string name
    # where it is: the lower tree's place in the stack, its descriptor, and the path below
    int place
    int fd
    string path
    # what says on a copy which number it keeps
    string mark

cdef void stage_in(int work_fd, string token, string mark_name) noexcept nogil
cdef LowerFile *find_lower(uint64_t ino) noexcept nogil
cdef uint64_t find_lower_named(uint64_t parent, const char *name) noexcept nogil
cdef uint64_t count_changes() noexcept nogil
cdef bint know_lower(uint64_t ino, const LowerFile *file, uint64_t changes) noexcept nogil
cdef int stage(const LowerFile *file, stat_t *info) noexcept nogil
cdef void discard(int fd) noexcept nogil
cdef bint put_up(uint64_t ino, int fd, int dir_fd, stat_t *info) noexcept nogil
cdef bint white_out(uint64_t ino, int dir_fd) noexcept nogil
cdef void forget_lower(uint64_t ino, uint64_t count) noexcept nogil
cdef void leave_lower(uint64_t ino) noexcept nogil
