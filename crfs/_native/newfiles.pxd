from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp.string cimport string

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        uint64_t st_ino
        uint32_t st_mode
        uint64_t st_nlink
        uint32_t st_uid
        uint32_t st_gid
        int64_t st_size
        int64_t st_blocks
        timespec st_atim
        timespec st_mtim
        timespec st_ctim
    int fstat(int fd, stat_t *info)

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

cdef NewFile *find_new(uint64_t ino) noexcept nogil
cdef uint64_t find_named(uint64_t parent, const char *name) noexcept nogil
cdef uint64_t number_of(uint64_t upper_ino) noexcept nogil
cdef uint64_t create(
    uint64_t parent, int dir_fd, const char *name, uint32_t mode, uint32_t uid, uint32_t gid, stat_t *info
) noexcept nogil
cdef bint open_new(NewFile *file, int dir_fd) noexcept nogil
cdef void release(uint64_t ino) noexcept nogil
cdef bint unlink_new(uint64_t ino, int dir_fd) noexcept nogil
cdef void forget_new(uint64_t ino, uint64_t count) noexcept nogil
cdef void leave(uint64_t ino) noexcept nogil
