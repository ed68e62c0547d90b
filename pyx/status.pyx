"""stat(2) below an open directory, for those who ask it of every name: what is not there is no exception, and what is
takes no more than the numbers that an overlay looks at. Any thread; the GIL is dropped around the system call.
"""

import os

from libc.errno cimport ENOENT, ENOTDIR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.unordered_set cimport unordered_set
from libcpp.vector cimport vector

from crfs._native.names cimport next_name, open_names
from crfs._native.system cimport (
    AT_SYMLINK_NOFOLLOW,
    DIR,
    DT_CHR,
    DT_UNKNOWN,
    O_CLOEXEC,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_RDONLY,
    S_IFMT,
    S_ISCHR,
    S_ISDIR,
    close,
    dirent,
    flistxattr,
    fstatat,
    openat,
    stat_t,
    timespec,
)

cdef struct Entry:
    string name
    uint64_t ino
    uint32_t mode
    bint is_whiteout


cdef class Status:
    """As os.stat_result has it."""


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
    return status_of(&info)


cdef Status status_of(const stat_t *info):
    cdef Status made = Status.__new__(Status)
    made.st_dev, made.st_ino, made.st_mode, made.st_nlink = info.st_dev, info.st_ino, info.st_mode, info.st_nlink
    made.st_uid, made.st_gid, made.st_rdev = info.st_uid, info.st_gid, info.st_rdev
    made.st_size, made.st_blocks = info.st_size, info.st_blocks
    made.st_atime_ns, made.st_mtime_ns = in_ns(info.st_atim), in_ns(info.st_mtim)
    made.st_ctime_ns = in_ns(info.st_ctim)
    return made


def is_bare_directory(int dir_fd, bytes path not None, bytes name not None) -> bool:
    """Whether the directory at a path has no extended attributes, and nothing of a name. False where it can't be told."""
    cdef const char *at = path or b"."
    cdef const char *without = name
    cdef int fd
    cdef stat_t info
    cdef bint is_bare = False
    with nogil:
        fd = openat(dir_fd, at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        if fd >= 0:
            is_bare = (
                flistxattr(fd, NULL, 0) == 0
                and fstatat(fd, without, &info, AT_SYMLINK_NOFOLLOW) != 0
                and errno == ENOENT
            )
            close(fd)
    return is_bare


def read_names(int dir_fd):
    """(name, inode number, type, whether it is a character device 0:0) of all in an open directory. OSError."""
    cdef vector[Entry] entries
    cdef int failed
    with nogil:
        failed = put_names(openat(dir_fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &entries)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return [(<bytes>entry.name, entry.ino, entry.mode, entry.is_whiteout) for entry in entries]


def are_hidden(int dir_fd, bytes path not None, int upper_fd) -> bool:
    """Whether an open directory holds whiteouts alone, and one for each name of that at a path below another.

    False also where that can't be told.
    """
    cdef const char *at = path or b"."
    cdef vector[Entry] upper, lower
    cdef unordered_set[string] hidden
    cdef bint found
    with nogil:
        found = put_names(openat(upper_fd, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &upper) == 0
        for each in upper:
            found = found and each.is_whiteout
            hidden.insert(each.name)
        found = found and put_names(openat(dir_fd, at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), &lower) == 0
        for each in lower:
            found = found and hidden.count(each.name) != 0
    return found


cdef int put_names(int fd, vector[Entry] *entries) noexcept nogil:
    """An errno, or 0. `fd` is closed."""
    cdef int failed
    cdef DIR *directory = open_names(fd, &failed)
    cdef dirent *found
    cdef stat_t info
    while True:
        found = next_name(directory, &failed)
        if found == NULL:
            return failed
        if found.d_type != DT_CHR and found.d_type != DT_UNKNOWN:
            entries.push_back(Entry(string(found.d_name), found.d_ino, <uint32_t>found.d_type << 12, False))
        elif fstatat(fd, found.d_name, &info, AT_SYMLINK_NOFOLLOW) == 0:
            entries.push_back(Entry(
                string(found.d_name), info.st_ino, info.st_mode & S_IFMT, S_ISCHR(info.st_mode) and info.st_rdev == 0
            ))


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
    cdef int failed
    cdef DIR *directory = open_names(fd, &failed)
    cdef dirent *entry
    cdef stat_t info
    while True:
        entry = next_name(directory, &failed)
        if entry == NULL:
            return failed
        # what is gone by now was not changed
        if fstatat(fd, entry.d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 and not S_ISDIR(info.st_mode) and (
                in_ns(info.st_mtim) != mtime_ns):
            found.push_back(string(entry.d_name))
