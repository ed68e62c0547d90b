"""A small file's way into the disk cache: written, published under its name, and given another one, in one step.

There are many, and each call of Python's would drop the GIL and wait for it again. Any thread.
"""

import os

from libc.errno cimport ENOENT, errno
from libc.stdint cimport int64_t
from libcpp.string cimport string

from crfs._native.system cimport (
    AT_FDCWD,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_WRONLY,
    UTIME_NOW,
    close,
    futimens,
    linkat,
    mkdirat,
    openat,
    pwrite,
    renameat,
    timespec,
    unlinkat,
)

# directories of the cache are nobody else's
cdef enum:
    DIRECTORY_MODE = 0o700
    FILE_MODE = 0o600
cdef int64_t SECOND_NS = 1_000_000_000
cdef char SLASH = b"/"


def keep(bytes path not None, bytes staged not None, const unsigned char[::1] data, bytes other, int64_t time_ns):
    """Write a file at `staged` and move it to `path`, of which the last directory is made where it is missing. OSError.

    With `other` it has that name as well, if it can have it, and `time_ns` for the time of its last change.
    """
    cdef const char *target = path
    cdef const char *first = staged
    cdef const char *linked = NULL
    cdef const unsigned char *content = NULL
    cdef size_t size = <size_t>data.shape[0]
    cdef int failed
    if size:
        content = &data[0]
    if other is not None:
        linked = other
    with nogil:
        failed = put(target, first, content, size, linked, time_ns)
    if failed:
        raise OSError(failed, os.strerror(failed), os.fsdecode(path))


cdef int put(
    const char *path, const char *staged, const unsigned char *data, size_t size, const char *other, int64_t time_ns
) noexcept nogil:
    """0, or an errno; nothing is left at `staged` then."""
    cdef int failed
    cdef int fd = openat(AT_FDCWD, staged, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE)
    if fd < 0:
        return errno
    failed = fill(fd, data, size)
    if not failed and renameat(AT_FDCWD, staged, AT_FDCWD, path) != 0:
        failed = errno
        if failed == ENOENT:
            make_directory(path)
            failed = 0 if renameat(AT_FDCWD, staged, AT_FDCWD, path) == 0 else errno
    if failed:
        unlinkat(AT_FDCWD, staged, 0)
    elif other != NULL:
        share(fd, path, other, time_ns)
    close(fd)
    return failed


cdef int fill(int fd, const unsigned char *data, size_t size) noexcept nogil:
    """0, or an errno."""
    cdef size_t done = 0
    cdef ssize_t written
    while done < size:
        written = pwrite(fd, data + done, size - done, <int64_t>done)
        if written < 0:
            return errno
        done += <size_t>written
    return 0


cdef void share(int fd, const char *path, const char *other, int64_t time_ns) noexcept nogil:
    cdef timespec times[2]
    times[0].tv_sec, times[0].tv_nsec = 0, UTIME_NOW
    times[1].tv_sec, times[1].tv_nsec = time_ns // SECOND_NS, <long>(time_ns % SECOND_NS)
    if futimens(fd, times) == 0 and linkat(AT_FDCWD, path, AT_FDCWD, other, 0) != 0 and errno == ENOENT:
        make_directory(other)
        linkat(AT_FDCWD, path, AT_FDCWD, other, 0)


cdef void make_directory(const char *path) noexcept nogil:
    """The one that a path lies in, unless somebody else has just done it."""
    cdef string directory = string(path)
    directory.resize(directory.rfind(SLASH))
    mkdirat(AT_FDCWD, directory.c_str(), DIRECTORY_MODE)
