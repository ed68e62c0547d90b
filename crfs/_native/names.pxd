# The names that an open directory holds, one after the other.

from libc.errno cimport errno
from libc.string cimport strcmp

from crfs._native.system cimport DIR, close, closedir, dirent, fdopendir, readdir

cdef extern from "<errno.h>" nogil:
    # one that can be set
    int last_error "errno"


# NULL, and an errno in `failed`, where that can't be done. `fd` is taken over, or closed; openat()'s -1 and errno may be given.
cdef inline DIR *open_names(int fd, int *failed) noexcept nogil:
    cdef DIR *directory = fdopendir(fd) if fd >= 0 else NULL
    failed[0] = errno if directory == NULL else 0
    if directory == NULL and fd >= 0:
        close(fd)
    return directory


# But for "." and "..". NULL at the end, where the directory is closed, and `failed` an errno or 0.
cdef inline dirent *next_name(DIR *directory, int *failed) noexcept nogil:
    global last_error
    cdef dirent *found = NULL
    while directory != NULL:
        last_error = 0
        found = readdir(directory)
        if found == NULL:
            failed[0] = errno
            closedir(directory)
            break
        if strcmp(found.d_name, ".") != 0 and strcmp(found.d_name, "..") != 0:
            break
    return found
