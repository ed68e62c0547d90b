"""stat(2) below an open directory, for those who ask it of every name: what is not there is no exception, and what is
takes no more than the numbers that an overlay looks at. Any thread; the GIL is dropped around the system call.
"""

import os

from libc.errno cimport ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs._native.system cimport (
    AT_SYMLINK_NOFOLLOW,
    O_CLOEXEC,
    O_DIRECTORY,
    O_RDONLY,
    S_ISDIR,
    fstatat,
    openat,
    stat_t,
    timespec,
)

cdef extern from "<errno.h>" nogil:
    # one that can be set
    int last_error "errno"

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass
    cdef struct dirent:
        char *d_name
    DIR *fdopendir(int fd)
    dirent *readdir(DIR *directory)
    int closedir(DIR *directory)


cdef class Status:
    """As os.stat_result has it."""

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


cdef int64_t in_ns(timespec time) noexcept nogil:
    return time.tv_sec * 1_000_000_000 + time.tv_nsec


def find_status(int dir_fd, bytes path not None):
    """What is at a path below an open directory, the last component not followed; None where nothing is. OSError."""
    cdef stat_t info
    cdef int failed
    cdef const char *at = path
    with nogil:
        failed = errno if fstatat(dir_fd, at, &info, AT_SYMLINK_NOFOLLOW) != 0 else 0
    if failed == ENOENT or failed == ENOTDIR:
        return None
    if failed:
        raise OSError(failed, os.strerror(failed))
    cdef Status made = Status.__new__(Status)
    made.st_dev, made.st_ino, made.st_mode, made.st_nlink = info.st_dev, info.st_ino, info.st_mode, info.st_nlink
    made.st_uid, made.st_gid, made.st_rdev = info.st_uid, info.st_gid, info.st_rdev
    made.st_size, made.st_blocks = info.st_size, info.st_blocks
    made.st_atime_ns, made.st_mtime_ns = in_ns(info.st_atim), in_ns(info.st_mtim)
    made.st_ctime_ns = in_ns(info.st_ctim)
    return made


def find_changed(int dir_fd, int64_t mtime_ns):
    """The names in an open directory whose time of change is another, but for those of directories. OSError."""
    cdef vector[string] found
    cdef int failed
    with nogil:
        failed = put_changed(openat(dir_fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), mtime_ns, &found)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return [<bytes>name for name in found]


cdef int put_changed(int fd, int64_t mtime_ns, vector[string] *found) noexcept nogil:
    """An errno, or 0. `fd` is closed."""
    global last_error
    cdef DIR *directory = fdopendir(fd) if fd >= 0 else NULL
    cdef int failed = errno if directory == NULL else 0
    cdef dirent *entry
    cdef stat_t info
    while not failed:
        last_error = 0
        entry = readdir(directory)
        if entry == NULL:
            failed = errno
            break
        # what is gone by now was not changed
        if fstatat(fd, entry.d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 and not S_ISDIR(info.st_mode) and (
                in_ns(info.st_mtim) != mtime_ns):
            found.push_back(string(entry.d_name))
    if directory != NULL:
        closedir(directory)
    return failed
