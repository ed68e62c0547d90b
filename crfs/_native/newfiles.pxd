from libc.stdint cimport uint32_t, uint64_t
from libcpp.string cimport string

from crfs._native.system cimport stat_t

# a file that was made here, and that nobody but the kernel knows yet
cdef cppclass NewFile:
    uint64_t parent
    uint64_t upper_ino
    uint64_t opens
    uint64_t nlookup
    uint32_t mode
    # open for reading and writing, -1 while nobody has it open; and what leads to it once it has no name (O_PATH)
    int fd
    int held_fd
    bint named
    string name

cdef string place(uint64_t parent, const char *name) noexcept nogil
cdef NewFile *find_new(uint64_t ino) noexcept nogil
cdef uint64_t find_named(uint64_t parent, const char *name) noexcept nogil
cdef uint64_t number_of(uint64_t upper_ino) noexcept nogil
cdef uint64_t create(
    uint64_t parent, int dir_fd, const char *name, uint32_t mode, uint32_t uid, uint32_t gid, stat_t *info
) noexcept nogil
cdef NewFile *adopt(
    uint64_t ino, uint64_t parent, const char *name, uint64_t nlookup, const stat_t *info
) noexcept nogil
cdef bint open_new(NewFile *file, int dir_fd) noexcept nogil
cdef void release(uint64_t ino) noexcept nogil
cdef bint unlink_new(uint64_t ino, int dir_fd) noexcept nogil
cdef void forget_new(uint64_t ino, uint64_t count) noexcept nogil
cdef void leave(uint64_t ino) noexcept nogil
