# The kernel's calls on files, and what they say, as our modules need them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        uint64_t st_dev
        uint64_t st_ino
        uint32_t st_mode
        uint64_t st_nlink
        uint32_t st_uid
        uint32_t st_gid
        uint64_t st_rdev
        int64_t st_size
        int64_t st_blocks
        timespec st_atim
        timespec st_mtim
        timespec st_ctim
    int fstat(int fd, stat_t *info)
    int fstatat(int dir_fd, const char *path, stat_t *info, int flags)
    int mkdirat(int dir_fd, const char *path, uint32_t mode)
    int fchmod(int fd, uint32_t mode)
    int fchmodat(int dir_fd, const char *path, uint32_t mode, int flags)
    int futimens(int fd, const timespec *times)
    int utimensat(int dir_fd, const char *path, const timespec *times, int flags)
    bint S_ISCHR(uint32_t mode)
    bint S_ISDIR(uint32_t mode)
    bint S_ISREG(uint32_t mode)
    uint32_t S_IFMT
    uint32_t S_ISUID
    uint32_t S_ISGID
    long UTIME_NOW
    long UTIME_OMIT

cdef extern from "<fcntl.h>" nogil:
    int O_ACCMODE
    int AT_FDCWD
    int O_RDONLY
    int O_WRONLY
    int O_RDWR
    int O_CREAT
    int O_EXCL
    int O_DIRECTORY
    int O_NOFOLLOW
    int O_NONBLOCK
    int O_CLOEXEC
    int O_PATH
    int AT_REMOVEDIR
    int AT_SYMLINK_NOFOLLOW
    int openat(int dir_fd, const char *path, int flags, ...)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass
    cdef struct dirent:
        uint64_t d_ino
        unsigned char d_type
        char *d_name
    unsigned char DT_CHR
    unsigned char DT_DIR
    unsigned char DT_UNKNOWN
    DIR *fdopendir(int fd)
    dirent *readdir(DIR *directory)
    int closedir(DIR *directory)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t pread(int fd, void *data, size_t size, int64_t off)
    ssize_t pwrite(int fd, const void *data, size_t size, int64_t off)
    int fchown(int fd, uint32_t uid, uint32_t gid)
    int fchownat(int dir_fd, const char *path, uint32_t uid, uint32_t gid, int flags)
    int ftruncate(int fd, int64_t size)
    int unlinkat(int dir_fd, const char *path, int flags)
    int linkat(int dir_fd, const char *path, int new_dir_fd, const char *new_path, int flags)

cdef extern from "<stdio.h>" nogil:
    unsigned int RENAME_EXCHANGE
    int renameat(int dir_fd, const char *path, int new_dir_fd, const char *new_path)
    int renameat2(int dir_fd, const char *path, int new_dir_fd, const char *new_path, unsigned int flags)

cdef extern from "<sys/xattr.h>" nogil:
    ssize_t flistxattr(int fd, char *names, size_t size)
    int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *parts, int count)
