"""A small file's copy, and its way to its place: what copy-up does to most files, with few steps back to Python.

Whatever is out of the common run (extended attributes, holes) is left to who asks. The GIL is dropped; any thread.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport int64_t

from crfs._native.names cimport last_error, next_name, open_names
from crfs._native.system cimport (
    AT_REMOVEDIR,
    DIR,
    DT_DIR,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_RDONLY,
    O_RDWR,
    RENAME_EXCHANGE,
    close,
    dirent,
    fchmod,
    fchown,
    flistxattr,
    fsetxattr,
    fstat,
    futimens,
    linkat,
    mkdirat,
    openat,
    pread,
    pwrite,
    renameat,
    renameat2,
    stat_t,
    timespec,
    unlinkat,
    utimensat,
)

cdef enum:
    SIZE_MAX = 1 << 18
    PIECE = 1 << 16
    SECTOR = 512


def copy_plain(int source_fd, int dir_fd, bytes name not None, bytes mark not None, bytes value not None):
    """A new file `name` in a directory, with all that an open one has, and one extended attribute more.

    (its descriptor, open for reading and writing; its inode number; whether it could be marked). None, and nothing was
    made, where the file is not one of at most 256 KiB without holes and extended attributes. OSError.
    """
    cdef const char *at = name
    cdef const char *marked = mark
    cdef const char *marking = value
    cdef size_t size = <size_t>len(value)
    cdef stat_t info
    cdef int fd, failed
    cdef bint is_marked
    with nogil:
        fd = copy(source_fd, dir_fd, at, marked, marking, size, &info, &is_marked)
        failed = errno
    if fd < 0 and failed:
        raise OSError(failed, os.strerror(failed))
    return None if fd < 0 else (fd, info.st_ino, is_marked)


def copy_directory(int source_fd, bytes path not None, int dir_fd, bytes name not None):
    """A new directory `name` in a directory, with all that one at a path below an open one is, but for what it holds.

    Its inode number. None, and nothing was made, where that has extended attributes. OSError.
    """
    cdef const char *source = path
    cdef const char *at = name
    cdef stat_t info
    cdef int failed
    cdef bint is_plain = False
    with nogil:
        failed = put_directory(source_fd, source, dir_fd, at, &info, &is_plain)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return info.st_ino if is_plain else None


def place_quietly(int work_fd, bytes staged not None, int dir_fd, bytes name not None):
    """Move a file into a directory, over what is there, with no change of the directory's times; OSError."""
    cdef const char *old = staged
    cdef const char *new = name
    cdef int failed
    with nogil:
        failed = errno if move_quietly(work_fd, old, dir_fd, new) != 0 else 0
    if failed:
        raise OSError(failed, os.strerror(failed))


def exchange_whiteout(
    int work_fd, bytes whiteout not None, bytes staged not None, int dir_fd, bytes name not None
) -> bool:
    """Give what is in a directory the name `staged` in the work directory, and its place to one more link to a whiteout.

    Whether that could be done; else nothing was.
    """
    cdef const char *source = whiteout
    cdef const char *at = staged
    cdef const char *old = name
    cdef bint done
    with nogil:
        done = linkat(work_fd, source, work_fd, at, 0) == 0
        if done and renameat2(work_fd, at, dir_fd, old, RENAME_EXCHANGE) != 0:
            unlinkat(work_fd, at, 0)
            done = False
    return done


def remove_flat(int dir_fd, bytes name not None) -> bool:
    """Remove a directory that has no directories in it; whether it is gone."""
    cdef const char *at = name
    cdef bint gone
    with nogil:
        empty(openat(dir_fd, at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))
        gone = unlinkat(dir_fd, at, AT_REMOVEDIR) == 0
    return gone


cdef void empty(int fd) noexcept nogil:
    """Of what can be unlinked. `fd` is closed."""
    cdef int failed
    cdef DIR *directory = open_names(fd, &failed)
    cdef dirent *found
    while True:
        found = next_name(directory, &failed)
        if found == NULL:
            return
        if found.d_type != DT_DIR:
            unlinkat(fd, found.d_name, 0)


cdef int copy(
    int source_fd, int dir_fd, const char *name, const char *mark, const void *value, size_t size,
    stat_t *info, bint *is_marked
) noexcept nogil:
    """See copy_plain(): a descriptor; or -1, errno, and nothing was made. What stat says of the source is in `info`
    then, but for the number, which is the copy's.
    """
    global last_error
    cdef int fd, failed
    if fstat(source_fd, info) != 0 or not is_plain(source_fd, info):
        last_error = 0
        return -1
    fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    if fd < 0:
        return -1
    failed = fill(source_fd, fd, info)
    if not failed:
        is_marked[0] = fsetxattr(fd, mark, value, size, 0) == 0
        failed = errno if dress(fd, info) != 0 else 0
    if failed:
        unlinkat(dir_fd, name, 0)
        close(fd)
        last_error = failed
        return -1
    return fd


cdef int put_directory(
    int source_fd, const char *path, int dir_fd, const char *name, stat_t *info, bint *is_plain
) noexcept nogil:
    """See copy_directory(): 0, or an errno."""
    cdef int failed = 0, made
    cdef int fd = openat(source_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    if fd < 0:
        return errno
    is_plain[0] = fstat(fd, info) == 0 and flistxattr(fd, NULL, 0) == 0
    close(fd)
    if not is_plain[0]:
        return 0
    if mkdirat(dir_fd, name, 0o700) != 0:
        return errno
    made = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    failed = errno if made < 0 or dress(made, info) != 0 else 0
    if made >= 0:
        close(made)
    if failed:
        unlinkat(dir_fd, name, AT_REMOVEDIR)
    return failed


cdef int move_quietly(int work_fd, const char *staged, int dir_fd, const char *name) noexcept nogil:
    """See place_quietly(): 0, or -1 and errno."""
    cdef stat_t info
    cdef timespec times[2]
    if fstat(dir_fd, &info) != 0 or renameat(work_fd, staged, dir_fd, name) != 0:
        return -1
    times[0], times[1] = info.st_atim, info.st_mtim
    # by name, since the descriptor may be an O_PATH one
    return utimensat(dir_fd, ".", times, 0)


cdef bint is_plain(int fd, const stat_t *info) noexcept nogil:
    return (
        info.st_size <= SIZE_MAX
        and info.st_blocks * SECTOR >= info.st_size
        and flistxattr(fd, NULL, 0) == 0
    )


cdef int fill(int source_fd, int fd, const stat_t *info) noexcept nogil:
    """0, or an errno. A source that has become shorter ends sooner."""
    cdef char data[PIECE]
    cdef int64_t off = 0
    cdef ssize_t read, written
    while off < info.st_size:
        read = pread(source_fd, data, <size_t>min(info.st_size - off, <int64_t>PIECE), off)
        if read <= 0:
            return errno if read < 0 else 0
        written = pwrite(fd, data, <size_t>read, off)
        if written < 0:
            return errno
        off += written
    return 0


cdef int dress(int fd, stat_t *source) noexcept nogil:
    """Owner, mode and times, in the order in which none undoes another; the copy's own inode number is in `source` then."""
    cdef stat_t made
    cdef timespec times[2]
    if fstat(fd, &made) != 0:
        return -1
    source.st_ino = made.st_ino
    if (made.st_uid != source.st_uid or made.st_gid != source.st_gid) and fchown(fd, source.st_uid, source.st_gid) != 0:
        return -1
    if fchmod(fd, source.st_mode & 0o7777) != 0:
        return -1
    times[0], times[1] = source.st_atim, source.st_mtim
    return futimens(fd, times)
