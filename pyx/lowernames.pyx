"""What a directory holds that one lower directory alone has: read at once, and told of as far as it is nothing but
regular files, which are left to crfs._native.answers as they are told of. The rest is left to who asks.

Any thread, one at a time; the GIL is dropped while the directory is read.
"""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen, strncmp
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs._native.answers cimport leave_file
from crfs._native.listing cimport Listing
from crfs._native.lowerfiles cimport LowerFile
from crfs._native.protocol cimport fuse_entry_out
from crfs._native.names cimport next_name, open_names
from crfs._native.status cimport status_of
from crfs._native.system cimport (
    AT_SYMLINK_NOFOLLOW,
    DIR,
    O_CLOEXEC,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    S_ISCHR,
    S_ISREG,
    close,
    dirent,
    flistxattr,
    fstatat,
    openat,
    stat_t,
)

# a name; `is_plain`: of a regular file that nothing but stat has to be asked about
cdef cppclass Entry:
    string name
    stat_t info
    bint is_plain

# crfs.overlay.marks: WHITEOUT_PREFIX
cdef const char *WHITEOUT_PREFIX = ".wh."
# crfs.overlay.numbers: _SPACE and _folded()
cdef uint64_t LOW = (<uint64_t>1 << 40) - 1


cdef class LowerNames:
    """The names of a lower directory in the order of the disk, without whiteouts, which hide nothing here."""

    cdef vector[Entry] entries
    cdef LowerFile file
    cdef string directory
    cdef uint64_t device
    cdef uint64_t space
    cdef bytes mark_end

    def __init__(
        self, int place, int fd, bytes path not None, uint64_t device, uint64_t space, bytes mark_end not None
    ):
        """OSError. `place`: of the lower tree in the stack, `path` below its descriptor, `device` that it is on.

        `space`: what is added to numbers; `mark_end`: what follows a number in its mark (crfs.overlay.numbers).
        """
        cdef const char *at = path or b"."
        cdef int failed
        self.file.place, self.file.fd, self.file.named = place, fd, True
        self.directory = path + b"/" if path else path
        self.device, self.space, self.mark_end = device, space, mark_end
        with nogil:
            failed = read_entries(openat(fd, at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), &self.entries)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def __len__(self) -> int:
        return <Py_ssize_t>self.entries.size()

    def __getitem__(self, size_t at):
        """(name, what stat says); IndexError."""
        if at >= self.entries.size():
            raise IndexError(at)
        return <bytes>self.entries[at].name, status_of(&self.entries[at].info)

    def put_files(
        self, Listing listing not None, size_t at, uint64_t before, uint64_t parent, dict known not None,
        dict taken not None, uint64_t changes,
    ) -> int:
        """Tell of the files from the `at`th name on, and leave them to answers.leave_to_us()'s owner.

        Where the first is that this can't be done with, or for which there is no room. `before`: how many names the
        listing has before all of these. `parent`: the directory's number. `known` names, and `taken` numbers, are
        somebody else's. `changes`: see answers.leave_to_us().
        """
        while at < self.entries.size() and self.put_file(listing, at, before, parent, known, taken, changes):
            at += 1
        return <Py_ssize_t>at

    cdef bint put_file(
        self, Listing listing, size_t at, uint64_t before, uint64_t parent, dict known, dict taken, uint64_t changes
    ) except -1:
        cdef const Entry *entry = &self.entries[at]
        cdef uint64_t ino = self.number_of(&entry.info) if entry.is_plain else 0
        cdef fuse_entry_out out
        cdef bytes name
        if not ino or listing.filled + listing.taken(<Py_ssize_t>entry.name.size()) > len(listing.data):
            return False
        name = entry.name
        if name in known or ino in taken:
            return False
        self.file.parent, self.file.nlookup, self.file.name = parent, 0, entry.name
        self.file.path = self.directory
        self.file.path.append(entry.name)
        self.file.mark = string(<const char *>&ino, sizeof(ino))
        self.file.mark.append(<string>self.mark_end)
        if not leave_file(ino, &self.file, changes, &entry.info, &out):
            return False
        listing.put(name, before + at + 1, ino, entry.info.st_mode, &out)
        return True

    cdef uint64_t number_of(self, const stat_t *info) noexcept:
        """0 where somebody else has to find one."""
        cdef uint64_t high = info.st_ino >> 56, low = info.st_ino & LOW
        if info.st_dev != self.device or info.st_ino != (high << 56 | low):
            return 0
        return self.space + (high << 40 | low)


cdef int read_entries(int fd, vector[Entry] *entries) noexcept nogil:
    """An errno, or 0. `fd` is closed."""
    cdef int failed
    cdef DIR *directory = open_names(fd, &failed)
    cdef dirent *found
    while True:
        found = next_name(directory, &failed)
        if found == NULL:
            return failed
        if strncmp(found.d_name, WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) != 0:
            add_entry(fd, found.d_name, entries)


cdef void add_entry(int dir_fd, const char *name, vector[Entry] *entries) noexcept nogil:
    """What is gone by now is left out, and so is a whiteout."""
    cdef Entry entry
    cdef const stat_t *info = &entry.info
    if fstatat(dir_fd, name, &entry.info, AT_SYMLINK_NOFOLLOW) != 0:
        return
    if S_ISCHR(info.st_mode) and info.st_rdev == 0:
        return
    # of a file without blocks the bytes may be elsewhere, and an empty one may be a whiteout
    entry.is_plain = (
        S_ISREG(info.st_mode) and info.st_nlink == 1
        and (info.st_blocks != 0 if info.st_size else has_no_attributes(dir_fd, name))
    )
    entry.name = string(name)
    entries.push_back(entry)


cdef bint has_no_attributes(int dir_fd, const char *name) noexcept nogil:
    """False also where that can't be told."""
    cdef int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    cdef bint has_none
    if fd < 0:
        return False
    has_none = flistxattr(fd, NULL, 0) == 0
    close(fd)
    return has_none
