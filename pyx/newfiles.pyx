"""Files that were made in directories of the upper one, as long as no more is done to them than programs that write
trees do: they are opened, written to, closed, removed. They are known here alone until the overlay asks for them.

Nothing of the protocol is here, and nothing locks: the caller does. A file's number is what crfs.overlay.numbers says
of one that is new in the upper directory.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport strlen, strncmp
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from cython.operator cimport dereference

from crfs._native.system cimport (
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_PATH,
    O_RDWR,
    close,
    fchmod,
    fchown,
    fstat,
    openat,
    stat_t,
    unlinkat,
)

# crfs.overlay.numbers: _UPPER and _folded()
cdef uint64_t UPPER = <uint64_t>1 << 60
cdef uint64_t LOW = (<uint64_t>1 << 40) - 1
# crfs.overlay.marks: WHITEOUT_PREFIX
cdef const char *WHITEOUT_PREFIX = ".wh."
cdef uint32_t PERMISSIONS = 0o777

cdef unordered_map[uint64_t, NewFile] files
cdef unordered_map[string, uint64_t] names


cdef string place(uint64_t parent, const char *name) noexcept nogil:
    cdef string made = string(<const char *>&parent, sizeof(parent))
    made.append(name)
    return made


cdef NewFile *find_new(uint64_t ino) noexcept nogil:
    """NULL where it is not known here. Good until files come or go."""
    found = files.find(ino)
    if found == files.end():
        return NULL
    return &dereference(found).second


cdef uint64_t find_named(uint64_t parent, const char *name) noexcept nogil:
    """The number of a file by its name in a directory; 0 where it is not known here."""
    if names.empty():
        return 0
    found = names.find(place(parent, name))
    return 0 if found == names.end() else dereference(found).second


cdef uint64_t number_of(uint64_t upper_ino) noexcept nogil:
    """0 where the overlay has to find one."""
    cdef uint64_t high = upper_ino >> 56, low = upper_ino & LOW
    return UPPER + (high << 40 | low) if upper_ino == (high << 56 | low) else 0


cdef uint64_t create(
    uint64_t parent, int dir_fd, const char *name, uint32_t mode, uint32_t uid, uint32_t gid, stat_t *info
) noexcept nogil:
    """A new file with one handle and one reference of the kernel's: its number, or 0 and nothing was made.

    What stat says of it is in `info` then.
    """
    cdef uint64_t ino
    cdef int fd
    cdef NewFile *file
    if mode & 0o7777 & ~PERMISSIONS or strncmp(name, WHITEOUT_PREFIX, strlen(WHITEOUT_PREFIX)) == 0:
        return 0
    fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & PERMISSIONS)
    if fd < 0:
        return 0
    ino = number_of(info.st_ino) if own(fd, mode, uid, gid, info) else 0
    if not ino or files.count(ino):
        unlinkat(dir_fd, name, 0)
        close(fd)
        return 0
    file = &files[ino]
    file.parent, file.upper_ino, file.mode = parent, info.st_ino, info.st_mode
    file.opens, file.nlookup, file.fd, file.held_fd = 1, 1, fd, -1
    file.named, file.name = True, string(name)
    names[place(parent, name)] = ino
    return ino


cdef NewFile *adopt(
    uint64_t ino, uint64_t parent, const char *name, uint64_t nlookup, const stat_t *info
) noexcept nogil:
    """A file that has just been copied up is like one that was made here, but for its number; `info` is of the copy.

    It has no special bits, and no extended attributes.
    """
    cdef NewFile *file = &files[ino]
    file.parent, file.upper_ino, file.mode = parent, info.st_ino, info.st_mode
    file.opens, file.nlookup, file.fd, file.held_fd = 0, nlookup, -1, -1
    file.named, file.name = True, string(name)
    names[place(parent, name)] = ino
    return file


cdef bint own(int fd, uint32_t mode, uint32_t uid, uint32_t gid, stat_t *info) noexcept nogil:
    """What was made is its maker's, with the permissions that were asked for."""
    cdef bint other_owner, other_mode
    if fstat(fd, info) != 0:
        return False
    other_owner = info.st_uid != uid or info.st_gid != gid
    other_mode = (info.st_mode ^ mode) & 0o7777 != 0
    if other_owner and fchown(fd, uid, gid) != 0 or other_mode and fchmod(fd, mode & PERMISSIONS) != 0:
        return False
    return not (other_owner or other_mode) or fstat(fd, info) == 0


cdef bint open_new(NewFile *file, int dir_fd) noexcept nogil:
    """One more handle; whether it could be opened."""
    if file.fd < 0:
        if not file.named:
            return False
        file.fd = openat(dir_fd, file.name.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC)
        if file.fd < 0:
            return False
    file.opens += 1
    return True


cdef void release(uint64_t ino) noexcept nogil:
    """One handle fewer."""
    cdef NewFile *file = find_new(ino)
    if file == NULL or not file.opens:
        return
    file.opens -= 1
    if not file.opens:
        close(file.fd)
        file.fd = -1
        drop(ino, file)


cdef bint unlink_new(uint64_t ino, int dir_fd) noexcept nogil:
    """Remove a file's name; whether that could be done. Something leads to it until the kernel forgets it."""
    cdef NewFile *file = find_new(ino)
    cdef int held_fd = openat(dir_fd, file.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC)
    if held_fd < 0:
        return False
    if unlinkat(dir_fd, file.name.c_str(), 0) != 0:
        close(held_fd)
        return False
    unname(file)
    file.held_fd = held_fd
    return True


cdef void unname(NewFile *file) noexcept nogil:
    if file.named:
        names.erase(place(file.parent, file.name.c_str()))
        file.named = False


cdef void forget_new(uint64_t ino, uint64_t count) noexcept nogil:
    """The kernel drops references."""
    cdef NewFile *file = find_new(ino)
    file.nlookup -= min(file.nlookup, count)
    drop(ino, file)


cdef void drop(uint64_t ino, NewFile *file) noexcept nogil:
    if file.nlookup or file.opens:
        return
    if file.held_fd >= 0:
        close(file.held_fd)
    leave(ino)


cdef void leave(uint64_t ino) noexcept nogil:
    """A file is the overlay's from now on, with its descriptors, or nobody's."""
    unname(find_new(ino))
    files.erase(ino)
