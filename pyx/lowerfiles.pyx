"""Files of lower directories of which the kernel has been told, as long as no more is done to them than programs that
change whole trees do: they are copied up with other attributes or to be written to, and removed. They are known here
alone until the overlay asks for them.

Nothing of the protocol is here, and nothing locks: the caller does. Each is a regular file of one name, in a directory
in which the upper one has nothing under that name. Once it is copied up, it is one of crfs._native.newfiles.
"""

from cython.operator cimport dereference
from libc.stdint cimport uint32_t, uint64_t
from libcpp.string cimport string, to_string
from libcpp.unordered_map cimport unordered_map

from crfs._native.copies cimport copy, move_quietly
from crfs._native.newfiles cimport adopt, find_new, place
from crfs._native.system cimport (
    O_CLOEXEC,
    O_NOFOLLOW,
    O_RDONLY,
    S_ISGID,
    S_ISUID,
    close,
    fstat,
    linkat,
    openat,
    stat_t,
    unlinkat,
)

# crfs.overlay.upper: what whiteouts are links to, in the work directory
cdef const char *WHITEOUT = "whiteout"
cdef uint32_t SPECIAL = S_ISUID | S_ISGID

cdef unordered_map[uint64_t, LowerFile] files
cdef unordered_map[string, uint64_t] names
cdef int work_fd = -1
cdef string token
cdef string mark_name
# how many names are staged, and how often what is in a directory has become something else
cdef uint64_t staged_count = 0
cdef uint64_t changes = 0


cdef void stage_in(int fd, string names_begin_with, string marked_by) noexcept nogil:
    """Where copies are staged, under which names, and what they are marked by. -1: nowhere."""
    global work_fd, token, mark_name
    work_fd, token, mark_name = fd, names_begin_with, marked_by


cdef LowerFile *find_lower(uint64_t ino) noexcept nogil:
    """NULL where it is not known here. Good until files come or go."""
    found = files.find(ino)
    if found == files.end():
        return NULL
    return &dereference(found).second


cdef uint64_t find_lower_named(uint64_t parent, const char *name) noexcept nogil:
    """The number of a file by its name in a directory; 0 where it is not known here."""
    if names.empty():
        return 0
    found = names.find(place(parent, name))
    return 0 if found == names.end() else dereference(found).second


cdef uint64_t count_changes() noexcept nogil:
    """How often something was changed here that directories show."""
    return changes


cdef bint know_lower(uint64_t ino, const LowerFile *file, uint64_t changes_before) noexcept nogil:
    """One reference more of the kernel's to a file; whether it is known here, then.

    Nothing that was found out before the last change is believed.
    """
    cdef LowerFile *kept
    if work_fd < 0 or changes != changes_before or find_new(ino) != NULL:
        return False
    kept = find_lower(ino)
    if kept == NULL:
        kept = &files[ino]
        kept[0] = file[0]
        kept.nlookup = 0
        names[place(file.parent, file.name.c_str())] = ino
    elif not kept.named or kept.parent != file.parent or kept.name != file.name:
        return False
    kept.nlookup += 1
    return True


cdef string staged_name() noexcept nogil:
    cdef string made = token
    made.append("-n").append(to_string(<unsigned long long>staged_count))
    return made


cdef int stage(const LowerFile *file, stat_t *info) noexcept nogil:
    """A copy in the work directory, open for reading and writing: what put_up() or discard() takes.

    -1, and nothing was made, where it is not to be copied here. `info` is of the source, but for the number.
    """
    global staged_count
    cdef bint is_marked = False
    cdef int fd
    cdef int source_fd = openat(file.fd, file.path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
    if source_fd < 0:
        return -1
    staged_count += 1
    if fstat(source_fd, info) != 0 or info.st_mode & SPECIAL or info.st_nlink != 1:
        fd = -1
    else:
        fd = copy(
            source_fd, work_fd, staged_name().c_str(), mark_name.c_str(), file.mark.data(), file.mark.size(),
            info, &is_marked,
        )  # fmt: skip
    close(source_fd)
    if fd >= 0 and not is_marked:
        # somebody has to remember its number
        discard(fd)
        return -1
    return fd


cdef void discard(int fd) noexcept nogil:
    """Remove what has been staged last."""
    unlinkat(work_fd, staged_name().c_str(), 0)
    close(fd)


cdef bint put_up(uint64_t ino, int fd, int dir_fd, stat_t *info) noexcept nogil:
    """Put what has been staged last in the place of a file, which is a new file's then, and `fd` nobody's.

    Whether that could be done; `info` is of the copy.
    """
    global changes
    cdef LowerFile *file = find_lower(ino)
    if move_quietly(work_fd, staged_name().c_str(), dir_fd, file.name.c_str()) != 0 or fstat(fd, info) != 0:
        discard(fd)
        return False
    changes += 1
    adopt(ino, file.parent, file.name.c_str(), file.nlookup, info)
    leave_lower(ino)
    return True


cdef bint white_out(uint64_t ino, int dir_fd) noexcept nogil:
    """Remove a file's name; whether that could be done. It is known until the kernel forgets it."""
    global changes
    cdef LowerFile *file = find_lower(ino)
    if linkat(work_fd, WHITEOUT, dir_fd, file.name.c_str(), 0) != 0:
        return False
    changes += 1
    unname(file)
    return True


cdef void unname(LowerFile *file) noexcept nogil:
    if file.named:
        names.erase(place(file.parent, file.name.c_str()))
        file.named = False


cdef void forget_lower(uint64_t ino, uint64_t count) noexcept nogil:
    """The kernel drops references."""
    cdef LowerFile *file = find_lower(ino)
    file.nlookup -= min(file.nlookup, count)
    if not file.nlookup:
        leave_lower(ino)


cdef void leave_lower(uint64_t ino) noexcept nogil:
    """A file is the overlay's from now on, or nobody's."""
    unname(find_lower(ino))
    files.erase(ino)
