"""Answers that take no more than a system call or two: given where the request is received, without Python or the GIL.

Of an overlay that is written to, these are most requests: a new file is looked for, made, written to, has its times,
owner and mode set, is closed and removed. The overlay tells here which descriptors its open upper files and directories
have (know_...), and takes that back before it closes one (forget()). Files that are made here are known here alone
(crfs._native.newfiles) until the overlay takes them over, and so are files of lower directories that were listed
(crfs._native.lowerfiles): by their number (take...()), which number_at() tells of a name.
Nothing else that the overlay remembers is changed; each answer that would need that is left to llfuse. Any thread; its
own mutex is the innermost lock.

Of directories, which llfuse knows no way to list together with what they hold, all is asked of one function of Python's
(serve_directories()).

The formats are those of linux/fuse.h at the protocol's version 7.19, which libfuse 2.9 speaks.
"""

import logging

from cython.operator cimport dereference
from libc.errno cimport EACCES, EIO, ENODATA, ENOENT, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from libcpp.mutex cimport mutex
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from crfs._native.lowerfiles cimport (
    LowerFile,
    count_changes,
    discard,
    find_lower,
    find_lower_named,
    forget_lower,
    know_lower,
    leave_lower,
    put_up,
    stage,
    stage_in,
    white_out,
)
from crfs._native.newfiles cimport (
    NewFile,
    create,
    find_named,
    find_new,
    forget_new,
    leave,
    open_new,
    place,
    release,
    unlink_new,
)
from crfs._native.protocol cimport (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_LOCKOWNER,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FOPEN_KEEP_CACHE,
    FUSE_ASYNC_READ,
    FUSE_BATCH_FORGET,
    FUSE_BIG_WRITES,
    FUSE_CREATE,
    FUSE_DO_READDIRPLUS,
    FUSE_FORGET,
    FUSE_FSYNCDIR,
    FUSE_GETATTR,
    FUSE_GETXATTR,
    FUSE_HANDLE_KILLPRIV_V2,
    FUSE_INIT,
    FUSE_LOOKUP,
    FUSE_NOTIFY_INVAL_INODE,
    FUSE_OPEN,
    FUSE_OPENDIR,
    FUSE_READ,
    FUSE_READDIR,
    FUSE_READDIRPLUS,
    FUSE_READDIRPLUS_AUTO,
    FUSE_RELEASE,
    FUSE_RELEASEDIR,
    FUSE_SETATTR,
    FUSE_UNLINK,
    FUSE_WRITE,
    FUSE_WRITE_KILL_SUIDGID,
    fuse_attr,
    fuse_attr_out,
    fuse_batch_forget_in,
    fuse_create_in,
    fuse_entry_out,
    fuse_forget_in,
    fuse_forget_one,
    fuse_fsync_in,
    fuse_getxattr_in,
    fuse_in_header,
    fuse_init_in,
    fuse_init_out,
    fuse_notify_inval_inode_out,
    fuse_open_in,
    fuse_open_out,
    fuse_out_header,
    fuse_read_in,
    fuse_release_in,
    fuse_setattr_in,
    fuse_write_in,
    fuse_write_out,
)
from crfs._native.system cimport (
    AT_SYMLINK_NOFOLLOW,
    O_ACCMODE,
    O_RDONLY,
    S_ISGID,
    S_ISUID,
    UTIME_NOW,
    UTIME_OMIT,
    close,
    fchmod,
    fchmodat,
    fchown,
    fchownat,
    fstat,
    fstatat,
    ftruncate,
    futimens,
    iovec,
    pread,
    pwrite,
    stat_t,
    timespec,
    utimensat,
    writev,
)

# what a CREATE is answered with
cdef struct Made:
    fuse_entry_out entry
    fuse_open_out opened

# what is known of a node; `merged`: a directory shows more than it has; `makes`: what is made in it is its maker's, and
# his group's
cdef struct Known:
    int fd
    bint is_dir
    bint plain
    bint merged
    bint makes

# bytes that are read and written as quickly as others are let in meanwhile
cdef enum:
    SMALL = 1 << 16
cdef uint32_t BLOCK = 4096
cdef size_t NAME_MAX = 255
# a handle that was given here is the file's number, with a bit that makes it none
cdef uint64_t GIVEN = <uint64_t>1 << 61
cdef const char *CAPABILITY = "security.capability"
cdef uint32_t CHANGES = (
    FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW
)
cdef uint32_t MEANT = CHANGES | FATTR_FH | FATTR_LOCKOWNER | FATTR_KILL_SUIDGID
cdef uint32_t IDS = FATTR_UID | FATTR_GID
cdef uint32_t SPECIAL = S_ISUID | S_ISGID

# what libfuse 2.9 asks for
cdef uint32_t MINOR = 19
cdef uint32_t MAX_WRITE = 1 << 17
cdef size_t INIT_SIZE = 24
# and what more: directories with what they hold; and that setuid and setgid go with what takes them away, so that the
# kernel need not ask for them before
cdef uint32_t OFFERED = (
    FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_HANDLE_KILLPRIV_V2
)

log = logging.getLogger(__name__)
cdef mutex lock
cdef unordered_map[uint64_t, Known] known
# directories by what leads to them, and the reverse; and how often lookups of them were answered here, and not forgotten
cdef unordered_map[string, uint64_t] directories
cdef unordered_map[uint64_t, string] places
cdef unordered_map[uint64_t, uint64_t] looked_up
cdef bint allowed = False
cdef bint makes_files = False
cdef double file_seconds = 0
cdef double dir_seconds = 0
cdef object read_directory = None
cdef object open_directory = None
cdef bint opens_for_changes = False
cdef bint lists = False
cdef bint opens_directories = False
cdef bint offers = False
cdef uint64_t directory_handle = 0
# /dev/fuse, since there has been a request
cdef int session_device = -1
cdef vector[uint64_t] released_handles
# where open directories end, as far as they have been read to the end
cdef unordered_map[uint64_t, uint64_t] ends


def allow(double files, double directories, bint new_files):
    """From now on: for how many seconds the kernel may believe what it is told of names and files, and of directories.

    Ids and modes are those on disk. `new_files`: they are numbered as crfs.overlay.numbers.Numbers does it.
    """
    global allowed, makes_files, file_seconds, dir_seconds
    lock.lock()
    allowed, makes_files, file_seconds, dir_seconds = True, new_files, files, directories
    lock.unlock()


def know_file(uint64_t ino, int fd, bint plain):
    """A regular file of the upper directory is open for reading and writing. `plain`: it has no extended attributes."""
    keep(ino, Known(fd, False, plain, False, False))


def know_directory(uint64_t ino, int fd, bint merged, bint setgid, uint64_t parent, bytes name not None):
    """A directory of the upper one is open; `fd` may be an O_PATH one. `merged`: lower trees show through it.

    `name` is what it has in the directory of the number `parent`; the root has b"".
    """
    cdef string at = place(parent, name)
    lock.lock()
    forget_place(ino)
    if allowed:
        known[ino] = Known(fd, True, False, merged, not merged and not setgid)
        directories[at] = ino
        places[ino] = at
    lock.unlock()


def forget(uint64_t ino):
    """Before a descriptor is closed, a directory is moved or removed, or a file is given an extended attribute."""
    lock.lock()
    known.erase(ino)
    forget_place(ino)
    lock.unlock()


def let_go(uint64_t ino) -> bool:
    """forget() a directory of which nobody else knows any more; False, and it is not, where the kernel does from here."""
    cdef bint is_free
    lock.lock()
    is_free = looked_up.count(ino) == 0
    if is_free:
        known.erase(ino)
        forget_place(ino)
    lock.unlock()
    return is_free


cdef void forget_place(uint64_t ino) noexcept nogil:
    at = places.find(ino)
    if at == places.end():
        return
    named = directories.find(dereference(at).second)
    if named != directories.end() and dereference(named).second == ino:
        directories.erase(named)
    places.erase(at)


def serve_changes(open):
    """Have `open(number)` see to it that a directory is known here, in the upper one; whether it is one, or OSError.

    It is asked when a change is to be made to a directory, or in one, that is not known.
    """
    global open_directory, opens_for_changes
    open_directory, opens_for_changes = open, True


def serve_directories(read, bint opens, bint plus):
    """Have `read(number, handle, offset, size, plus)` say what is in directories (crfs._native.listing), or OSError.

    `opens`: they are opened, each time with another handle. `plus`: the kernel is told that it may ask for more than
    names, and all else that libfuse asks for unless it has options to do so.
    """
    global read_directory, lists, opens_directories, offers
    read_directory, lists, opens_directories, offers = read, True, opens, plus


def know_end(uint64_t handle, uint64_t off):
    """A directory has no more than its first `off` names, until it is read from the beginning again."""
    lock.lock()
    ends[handle] = off
    lock.unlock()


def released_directories():
    """The handles of directories that have been closed since this was last asked."""
    cdef vector[uint64_t] handles
    lock.lock()
    handles.swap(released_handles)
    lock.unlock()
    return list(handles)


def take(uint64_t ino):
    """A file that was made here is the overlay's from now on. None where there is none of that number.

    (its number, the directory's, its name or None, its number on disk, mode, references, handles, a descriptor that is
    open for reading and writing, one that leads to it while it has no name; -1 for a descriptor that there is not).
    """
    cdef NewFile *file
    cdef NewFile taken
    lock.lock()
    file = find_new(ino)
    if file == NULL:
        lock.unlock()
        return None
    taken = dereference(file)
    leave(ino)
    lock.unlock()
    name = <bytes>taken.name if taken.named else None
    return (
        ino, taken.parent, name, taken.upper_ino, taken.mode, taken.nlookup, taken.opens, taken.fd, taken.held_fd
    )  # fmt: skip


def take_lower(uint64_t ino):
    """A file of a lower directory is the overlay's from now on. None where there is none of that number.

    (the directory's number, its name or None, the lower tree's place, the path there, references).
    """
    cdef LowerFile *file
    cdef LowerFile taken
    lock.lock()
    file = find_lower(ino)
    if file == NULL:
        lock.unlock()
        return None
    taken = dereference(file)
    leave_lower(ino)
    lock.unlock()
    return taken.parent, <bytes>taken.name if taken.named else None, taken.place, <bytes>taken.path, taken.nlookup


def number_at(uint64_t parent, bytes name not None):
    """The number of what a directory has under a name that is known here; 0 where it is not."""
    cdef const char *at = name
    cdef uint64_t ino
    lock.lock()
    ino = find_named(parent, at) or find_lower_named(parent, at)
    lock.unlock()
    return ino


def stage_copies(int work_fd, bytes token not None, bytes mark not None):
    """Files of lower directories may be left to us, and are copied up by way of a work directory; -1: no more.

    `token`: what names there may begin with. `mark`: the attribute of a copy that keeps its number.
    """
    lock.lock()
    stage_in(work_fd, token, mark)
    lock.unlock()


def changed_lower():
    """How often files that were left to us have been copied up or removed."""
    lock.lock()
    cdef uint64_t count = count_changes()
    lock.unlock()
    return count


def leave_to_us(
    uint64_t ino, uint64_t parent, bytes name not None, int place, int fd, bytes path not None, bytes mark not None,
    uint64_t changes,
) -> bool:
    """The kernel is told of a lower file that the overlay has no node of; whether it is ours from now on, or was.

    It is a regular one that is shown as it is, of one name, at a path below a descriptor; nothing else is in the stack
    under that name. `changes`: what changed_lower() said before that was found out. `mark`: see crfs.overlay.numbers.
    """
    cdef LowerFile file
    file.parent, file.nlookup, file.named, file.name = parent, 0, True, name
    file.place, file.fd, file.path, file.mark = place, fd, path, mark
    lock.lock()
    cdef bint known_here = allowed and know_lower(ino, &file, changes)
    lock.unlock()
    return known_here


cdef bint leave_file(
    uint64_t ino, const LowerFile *file, uint64_t changes, const stat_t *info, fuse_entry_out *told
) noexcept:
    """The same for what is to be told of it, which `told` is then."""
    lock.lock()
    cdef bint known_here = allowed and know_lower(ino, file, changes)
    if known_here:
        set_entry(told, ino, info)
    lock.unlock()
    return known_here


def is_new(uint64_t parent, bytes name not None) -> bool:
    """Whether what a directory has under a name was made here."""
    cdef const char *at = name
    lock.lock()
    cdef bint found = find_named(parent, at) != 0
    lock.unlock()
    return found


def handle_number(uint64_t fh):
    """The number of the file that a handle was given for here; None where it was not."""
    return fh & ~GIVEN if fh & GIVEN else None


def forget_attributes(uint64_t ino):
    """The kernel believes nothing any more of what it knows of an inode's attributes, once this returns.

    llfuse leaves the same to a thread of its own: too late where a request that is answered next depends on it.
    """
    cdef fuse_out_header out
    cdef fuse_notify_inval_inode_out told
    cdef iovec parts[2]
    told.ino, told.off, told.len = ino, -1, 0
    out.len, out.error, out.unique = <uint32_t>(sizeof(out) + sizeof(told)), FUSE_NOTIFY_INVAL_INODE, 0
    parts[0].iov_base, parts[0].iov_len = &out, sizeof(out)
    parts[1].iov_base, parts[1].iov_len = &told, sizeof(told)
    with nogil:
        # that the kernel knows of no such inode (ENOENT) is no matter
        writev(session_device, parts, 2)


cdef void keep(uint64_t ino, Known each) noexcept:
    lock.lock()
    if allowed:
        known[ino] = each
    lock.unlock()


cdef bint answer(int device, char *request, size_t size) noexcept nogil:
    """Answer a request that was received whole; whether that could be done. What is left of it is shortened to that."""
    global session_device
    cdef const fuse_in_header *head = <const fuse_in_header *>request
    cdef bint answered = False
    session_device = device
    if size <= sizeof(fuse_in_header):
        return False
    if lists and (head.opcode == FUSE_READDIR or head.opcode == FUSE_READDIRPLUS):
        return answer_listing(device, head, <const fuse_read_in *>(request + sizeof(fuse_in_header)))
    cdef char *body = request + sizeof(fuse_in_header)
    cdef uint64_t directory = 0
    lock.lock()
    answered = answer_locked(device, head, body, size - sizeof(fuse_in_header))
    if not answered and opens_for_changes:
        directory = missing_directory(head, body)
    lock.unlock()
    if directory == 0 or not can_open(directory):
        return answered
    lock.lock()
    answered = answer_locked(device, head, body, size - sizeof(fuse_in_header))
    lock.unlock()
    return answered


cdef uint64_t missing_directory(const fuse_in_header *head, const char *body) noexcept nogil:
    """The directory that has to be known for a change to be made here; 0 where there is none."""
    cdef LowerFile *file
    if head.opcode == FUSE_UNLINK:
        return head.nodeid if open_parent(head.nodeid) < 0 and find_lower_named(head.nodeid, body) else 0
    if head.opcode != FUSE_SETATTR and (
        head.opcode != FUSE_OPEN or (<const fuse_open_in *>body).flags & O_ACCMODE == O_RDONLY
    ):
        return 0
    file = find_lower(head.nodeid)
    if file != NULL:
        return file.parent if file.named and open_parent(file.parent) < 0 else 0
    if head.opcode == FUSE_OPEN or find_new(head.nodeid) != NULL or open_parent(head.nodeid) >= 0:
        return 0
    return head.nodeid


cdef bint can_open(uint64_t ino) noexcept nogil:
    """Without the lock: what is called wants it. What has gone wrong is said to who asks for the change."""
    with gil:
        try:
            return open_directory(ino)
        except OSError:
            return False
        except Exception:
            log.exception("a directory can't be opened")
            return False


cdef bint answer_listing(int device, const fuse_in_header *head, const fuse_read_in *asked) noexcept nogil:
    """Without the lock: what is called wants it."""
    if is_at_end(asked):
        return reply(device, head, 0, NULL, 0)
    with gil:
        try:
            data = read_directory(
                head.nodeid, asked.fh, asked.offset, asked.size, head.opcode == FUSE_READDIRPLUS
            )  # fmt: skip
        except OSError as error:
            return reply(device, head, error.errno or EIO, NULL, 0)
        except Exception:
            log.exception("readdir failed")
            return reply(device, head, EIO, NULL, 0)
        return reply(device, head, 0, <const char *>data, <size_t>len(data))


cdef bint is_at_end(const fuse_read_in *asked) noexcept nogil:
    lock.lock()
    end = ends.find(asked.fh)
    cdef bint found = asked.offset != 0 and end != ends.end() and asked.offset >= dereference(end).second
    if not asked.offset and end != ends.end():
        ends.erase(end)
    lock.unlock()
    return found


cdef void offer(int device, const fuse_in_header *head, const fuse_init_in *asked) noexcept nogil:
    """Say at the start what libfuse would say, and what we can do more. Its own answer then comes too late (ENOENT)."""
    cdef fuse_init_out out
    memset(&out, 0, sizeof(out))
    out.major, out.minor, out.max_readahead, out.max_write = 7, MINOR, asked.max_readahead, MAX_WRITE
    out.flags = asked.flags & OFFERED
    reply(device, head, 0, &out, INIT_SIZE)


cdef bint answer_open_directory(int device, const fuse_in_header *head) noexcept nogil:
    global directory_handle
    cdef fuse_open_out out
    directory_handle += 1
    memset(&out, 0, sizeof(out))
    out.fh = directory_handle
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_locked(int device, const fuse_in_header *head, char *body, size_t size) noexcept nogil:
    cdef NewFile *file
    cdef LowerFile *lower
    if head.opcode == FUSE_BATCH_FORGET:
        return forget_all(<fuse_batch_forget_in *>body, size)
    if offers and head.opcode == FUSE_INIT:
        offer(device, head, <const fuse_init_in *>body)
        return False
    if opens_directories and head.opcode == FUSE_OPENDIR:
        return answer_open_directory(device, head)
    if opens_directories and head.opcode == FUSE_RELEASEDIR:
        released_handles.push_back((<const fuse_release_in *>body).fh)
        ends.erase((<const fuse_release_in *>body).fh)
        return reply(device, head, 0, NULL, 0)
    if opens_directories and head.opcode == FUSE_FSYNCDIR:
        # llfuse names no inode, so that the handle has to
        (<fuse_fsync_in *>body).fh = head.nodeid
        return False
    file = find_new(head.nodeid)
    if file != NULL:
        return answer_new(device, head, body, size, file)
    lower = find_lower(head.nodeid)
    if lower != NULL:
        return answer_lower(device, head, body, lower)
    if head.opcode == FUSE_FORGET and looked_up.count(head.nodeid):
        (<fuse_forget_in *>body).nlookup = left_to_forget(head.nodeid, (<fuse_forget_in *>body).nlookup)
        return (<fuse_forget_in *>body).nlookup == 0
    found = known.find(head.nodeid)
    return found != known.end() and answer_known(device, head, body, size, &dereference(found).second)


cdef bint answer_known(
    int device, const fuse_in_header *head, const char *body, size_t size, const Known *node
) noexcept nogil:
    if node.is_dir:
        return answer_directory(device, head, body, node)
    if head.opcode == FUSE_GETATTR:
        return answer_attributes(device, head, node)
    if head.opcode == FUSE_WRITE:
        return not takes_special(node.fd, <const fuse_write_in *>body) and answer_write(device, head, body, size, node.fd)
    if head.opcode == FUSE_SETATTR:
        return answer_changes(device, head, <const fuse_setattr_in *>body, node.fd, True)
    if head.opcode == FUSE_GETXATTR and node.plain:
        return answer_capability(device, head, body + sizeof(fuse_getxattr_in))
    return False


cdef bint answer_directory(int device, const fuse_in_header *head, const char *body, const Known *node) noexcept nogil:
    cdef uint64_t ino
    if head.opcode == FUSE_GETATTR:
        return answer_attributes(device, head, node)
    if head.opcode == FUSE_SETATTR:
        return change_directory(device, head, <const fuse_setattr_in *>body, node)
    if head.opcode == FUSE_LOOKUP and answer_directory_found(device, head, body):
        return True
    if node.merged:
        return answer_merged(device, head, body, node)
    if head.opcode == FUSE_CREATE:
        return makes_files and node.makes and answer_create(device, head, body, node.fd)
    if head.opcode == FUSE_LOOKUP:
        ino = find_named(head.nodeid, body)
        return answer_found(device, head, ino, node.fd) if ino else answer_missing(device, head, body, node.fd)
    if head.opcode == FUSE_UNLINK:
        ino = find_named(head.nodeid, body)
        return ino != 0 and unlink_new(ino, node.fd) and reply(device, head, 0, NULL, 0)
    return False


cdef bint answer_directory_found(int device, const fuse_in_header *head, const char *name) noexcept nogil:
    """Whether a name is that of a directory that is known, and could be told."""
    cdef fuse_entry_out out
    cdef stat_t info
    cdef uint64_t ino
    found = directories.find(place(head.nodeid, name))
    if found == directories.end():
        return False
    ino = dereference(found).second
    if not tell_directory(&known[ino], &info):
        return False
    looked_up[ino] += 1
    set_entry(&out, ino, &info)
    set_seconds(dir_seconds, &out.attr_valid, &out.attr_valid_nsec)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint change_directory(
    int device, const fuse_in_header *head, const fuse_setattr_in *asked, const Known *node
) noexcept nogil:
    """One that is setgid, or is to be, is not for us: what is made in it is another group's.

    Nor is one that its owner, who we are, may not search: "." can't be found in it.
    """
    cdef stat_t info
    if not is_change(asked) or asked.valid & FATTR_SIZE or fstat(node.fd, &info) != 0 or info.st_mode & SPECIAL:
        return False
    if change_at(node.fd, asked) != 0 or not tell_directory(node, &info):
        return errno != EACCES and reply(device, head, errno, NULL, 0)
    return reply_attributes(device, head, &info, dir_seconds)


cdef bint answer_merged(int device, const fuse_in_header *head, const char *name, const Known *node) noexcept nogil:
    cdef uint64_t ino
    if head.opcode == FUSE_UNLINK:
        ino = find_lower_named(head.nodeid, name)
        return ino != 0 and white_out(ino, node.fd) and reply(device, head, 0, NULL, 0)
    if head.opcode == FUSE_LOOKUP:
        ino = find_named(head.nodeid, name)
        if ino:
            return answer_found(device, head, ino, node.fd)
    return False


cdef bint answer_lower(int device, const fuse_in_header *head, const char *body, LowerFile *file) noexcept nogil:
    cdef stat_t info
    if head.opcode == FUSE_GETATTR:
        if fstatat(file.fd, file.path.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0:
            return False
        info.st_nlink = file.named
        return reply_attributes(device, head, &info, file_seconds)
    if head.opcode == FUSE_SETATTR:
        return change_lower(device, head, <const fuse_setattr_in *>body, file)
    if head.opcode == FUSE_OPEN and (<const fuse_open_in *>body).flags & O_ACCMODE != O_RDONLY:
        return open_lower(device, head, file)
    if head.opcode == FUSE_FORGET:
        forget_lower(head.nodeid, (<const fuse_forget_in *>body).nlookup)
        return True
    return False


cdef bint open_lower(int device, const fuse_in_header *head, LowerFile *file) noexcept nogil:
    """To write to it."""
    cdef stat_t info
    cdef fuse_open_out out
    cdef int fd = copy_up(head.nodeid, file, NULL, &info)
    cdef NewFile *copied
    if fd < 0:
        return False
    copied = find_new(head.nodeid)
    copied.fd, copied.opens = fd, 1
    set_opened(&out, head.nodeid)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint change_lower(
    int device, const fuse_in_header *head, const fuse_setattr_in *asked, LowerFile *file
) noexcept nogil:
    cdef stat_t info
    cdef int fd
    if not is_change(asked) or asked.valid & FATTR_SIZE:
        return False
    fd = copy_up(head.nodeid, file, asked, &info)
    if fd < 0:
        return False
    close(fd)
    return reply_attributes(device, head, &info, file_seconds)


cdef int copy_up(uint64_t ino, LowerFile *file, const fuse_setattr_in *asked, stat_t *info) noexcept nogil:
    """A descriptor of a file that is a new one from now on, and that is changed as asked before it is seen; or -1.

    What stat says of it is in `info` then.
    """
    cdef int dir_fd = open_parent(file.parent)
    cdef int fd = stage(file, info) if dir_fd >= 0 and file.named else -1
    if fd < 0:
        return -1
    if asked != NULL and change(fd, asked) != 0:
        discard(fd)
        return -1
    return fd if put_up(ino, fd, dir_fd, info) else -1


cdef bint answer_new(
    int device, const fuse_in_header *head, const char *body, size_t size, NewFile *file
) noexcept nogil:
    if head.opcode == FUSE_WRITE:
        return answer_write(device, head, body, size, file.fd)
    if head.opcode == FUSE_READ:
        return answer_read(device, head, <const fuse_read_in *>body, file.fd)
    if head.opcode == FUSE_SETATTR:
        return change_new(device, head, <const fuse_setattr_in *>body, file)
    if head.opcode == FUSE_GETATTR:
        return tell_new(device, head, file)
    if head.opcode == FUSE_GETXATTR:
        return answer_capability(device, head, body + sizeof(fuse_getxattr_in))
    if head.opcode == FUSE_OPEN:
        return answer_open(device, head, file)
    if head.opcode == FUSE_RELEASE:
        release(head.nodeid)
        return reply(device, head, 0, NULL, 0)
    if head.opcode == FUSE_FORGET:
        forget_new(head.nodeid, (<const fuse_forget_in *>body).nlookup)
        return True
    return False


cdef int open_parent(uint64_t ino) noexcept nogil:
    """A directory's descriptor; -1 where it is not open."""
    parent = known.find(ino)
    return dereference(parent).second.fd if parent != known.end() else -1


cdef bint tell_new(int device, const fuse_in_header *head, const NewFile *file) noexcept nogil:
    cdef stat_t info
    cdef int failed
    if file.fd >= 0 or file.held_fd >= 0:
        failed = fstat(file.fd if file.fd >= 0 else file.held_fd, &info)
    else:
        failed = fstatat(open_parent(file.parent), file.name.c_str(), &info, AT_SYMLINK_NOFOLLOW)
    return failed == 0 and reply_attributes(device, head, &info, file_seconds)


cdef bint change_new(
    int device, const fuse_in_header *head, const fuse_setattr_in *asked, NewFile *file
) noexcept nogil:
    """What is made here has no special bits. It is opened for that, if it is not."""
    cdef bint answered
    if not open_new(file, open_parent(file.parent)):
        return False
    answered = answer_changes(device, head, asked, file.fd, False)
    release(head.nodeid)
    return answered


cdef bint forget_all(fuse_batch_forget_in *asked, size_t size) noexcept nogil:
    """Leave those that are not known here; whether there are none."""
    cdef fuse_forget_one *each = <fuse_forget_one *>(<char *>asked + sizeof(fuse_batch_forget_in))
    cdef uint32_t left = 0
    if size < sizeof(fuse_batch_forget_in) + asked.count * sizeof(fuse_forget_one):
        return False
    for at in range(asked.count):
        if find_new(each[at].nodeid) != NULL:
            forget_new(each[at].nodeid, each[at].nlookup)
        elif find_lower(each[at].nodeid) != NULL:
            forget_lower(each[at].nodeid, each[at].nlookup)
        else:
            each[at].nlookup = left_to_forget(each[at].nodeid, each[at].nlookup)
            if each[at].nlookup:
                each[left] = each[at]
                left += 1
    asked.count = left
    return left == 0


cdef uint64_t left_to_forget(uint64_t ino, uint64_t count) noexcept nogil:
    """How many references that the kernel drops of a directory are not those that were given here."""
    cdef uint64_t mine
    found = looked_up.find(ino)
    if found == looked_up.end():
        return count
    mine = min(count, dereference(found).second)
    dereference(found).second -= mine
    if not dereference(found).second:
        looked_up.erase(found)
    return count - mine


cdef bint reply(int device, const fuse_in_header *head, int error, const void *data, size_t size) noexcept nogil:
    """That nobody waits for it any more (ENOENT) is no matter."""
    cdef fuse_out_header out
    cdef iovec parts[2]
    out.len, out.error, out.unique = <uint32_t>(sizeof(out) + size), -error, head.unique
    parts[0].iov_base, parts[0].iov_len = &out, sizeof(out)
    parts[1].iov_base, parts[1].iov_len = <void *>data, size
    writev(device, parts, 2 if size else 1)
    return True


cdef void set_attributes(fuse_attr *attr, uint64_t ino, const stat_t *info) noexcept nogil:
    memset(attr, 0, sizeof(fuse_attr))
    attr.ino, attr.mode, attr.nlink = ino, info.st_mode, <uint32_t>info.st_nlink
    attr.uid, attr.gid, attr.size = info.st_uid, info.st_gid, <uint64_t>info.st_size
    attr.blocks, attr.blksize = <uint64_t>info.st_blocks, BLOCK
    attr.atime, attr.atimensec = <uint64_t>info.st_atim.tv_sec, <uint32_t>info.st_atim.tv_nsec
    attr.mtime, attr.mtimensec = <uint64_t>info.st_mtim.tv_sec, <uint32_t>info.st_mtim.tv_nsec
    attr.ctime, attr.ctimensec = <uint64_t>info.st_ctim.tv_sec, <uint32_t>info.st_ctim.tv_nsec


cdef void set_seconds(double seconds, uint64_t *whole, uint32_t *nanoseconds) noexcept nogil:
    whole[0] = <uint64_t>seconds
    nanoseconds[0] = <uint32_t>((seconds - <double>whole[0]) * 1e9)


cdef void set_entry(fuse_entry_out *out, uint64_t ino, const stat_t *info) noexcept nogil:
    memset(out, 0, sizeof(fuse_entry_out))
    out.nodeid = ino
    set_seconds(file_seconds, &out.entry_valid, &out.entry_valid_nsec)
    if ino:
        set_seconds(file_seconds, &out.attr_valid, &out.attr_valid_nsec)
        set_attributes(&out.attr, ino, info)


cdef bint tell_directory(const Known *node, stat_t *info) noexcept nogil:
    """Nobody counts the subdirectories of a merged directory: 1 says so (as overlayfs does)."""
    if fstat(node.fd, info) != 0:
        return False
    if node.merged:
        info.st_nlink = 1
    return True


cdef bint answer_attributes(int device, const fuse_in_header *head, const Known *node) noexcept nogil:
    cdef stat_t info
    if not tell_directory(node, &info):
        return False
    return reply_attributes(device, head, &info, dir_seconds if node.is_dir else file_seconds)


cdef bint reply_attributes(int device, const fuse_in_header *head, const stat_t *info, double seconds) noexcept nogil:
    cdef fuse_attr_out out
    memset(&out, 0, sizeof(out))
    set_seconds(seconds, &out.attr_valid, &out.attr_valid_nsec)
    set_attributes(&out.attr, head.nodeid, info)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_found(int device, const fuse_in_header *head, uint64_t ino, int dir_fd) noexcept nogil:
    cdef NewFile *file = find_new(ino)
    cdef stat_t info
    cdef fuse_entry_out out
    if fstatat(dir_fd, file.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0:
        return False
    file.nlookup += 1
    set_entry(&out, ino, &info)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_missing(int device, const fuse_in_header *head, const char *name, int dir_fd) noexcept nogil:
    """Only that there is no such name: what there is needs an inode."""
    cdef stat_t info
    cdef fuse_entry_out out
    if strlen(name) > NAME_MAX or fstatat(dir_fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 or errno != ENOENT:
        return False
    set_entry(&out, 0, NULL)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_create(int device, const fuse_in_header *head, const char *body, int dir_fd) noexcept nogil:
    cdef stat_t info
    cdef Made made
    cdef uint32_t mode = (<const fuse_create_in *>body).mode
    cdef const char *name = body + sizeof(fuse_create_in)
    cdef uint64_t ino = create(head.nodeid, dir_fd, name, mode, head.uid, head.gid, &info)
    if not ino:
        return False
    set_entry(&made.entry, ino, &info)
    set_opened(&made.opened, ino)
    return reply(device, head, 0, &made, sizeof(made))


cdef void set_opened(fuse_open_out *out, uint64_t ino) noexcept nogil:
    memset(out, 0, sizeof(fuse_open_out))
    out.fh, out.open_flags = ino | GIVEN, FOPEN_KEEP_CACHE


cdef bint answer_open(int device, const fuse_in_header *head, NewFile *file) noexcept nogil:
    cdef fuse_open_out out
    if not open_new(file, open_parent(file.parent)):
        return False
    set_opened(&out, head.nodeid)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_read(int device, const fuse_in_header *head, const fuse_read_in *asked, int fd) noexcept nogil:
    """Of what has just been written, and so is in the kernel's cache."""
    cdef char data[SMALL]
    cdef ssize_t done
    if fd < 0 or asked.size > SMALL:
        return False
    done = pread(fd, data, asked.size, <int64_t>asked.offset)
    return reply(device, head, errno, NULL, 0) if done < 0 else reply(device, head, 0, data, <size_t>done)


cdef bint answer_write(int device, const fuse_in_header *head, const char *body, size_t size, int fd) noexcept nogil:
    cdef const fuse_write_in *asked = <const fuse_write_in *>body
    cdef const char *data = body + sizeof(fuse_write_in)
    cdef fuse_write_out out
    cdef uint32_t done = 0
    cdef ssize_t written
    if fd < 0 or asked.size > SMALL or size < sizeof(fuse_write_in) + asked.size:
        return False
    while done < asked.size:
        written = pwrite(fd, data + done, asked.size - done, <int64_t>(asked.offset + done))
        if written < 0:
            return reply(device, head, errno, NULL, 0)
        done += <uint32_t>written
    memset(&out, 0, sizeof(out))
    out.size = done
    return reply(device, head, 0, &out, sizeof(out))


cdef bint takes_special(int fd, const fuse_write_in *asked) noexcept nogil:
    """Whether setuid or setgid go with a write."""
    cdef stat_t info
    return asked.write_flags & FUSE_WRITE_KILL_SUIDGID and (fstat(fd, &info) != 0 or info.st_mode & SPECIAL)


cdef bint answer_capability(int device, const fuse_in_header *head, const char *name) noexcept nogil:
    """The kernel asks for it before each write."""
    if memcmp(name, CAPABILITY, strlen(CAPABILITY) + 1) != 0:
        return False
    return reply(device, head, ENODATA, NULL, 0)


cdef bint answer_changes(
    int device, const fuse_in_header *head, const fuse_setattr_in *asked, int fd, bint may_be_special
) noexcept nogil:
    """In the order in which none undoes another. Setuid and setgid, which a change of owner takes away, are not for us."""
    cdef stat_t info
    if not is_change(asked):
        return False
    if may_be_special and (fstat(fd, &info) != 0 or info.st_mode & SPECIAL):
        return False
    if change(fd, asked) != 0 or fstat(fd, &info) != 0:
        return reply(device, head, errno, NULL, 0)
    return reply_attributes(device, head, &info, file_seconds)


cdef bint is_change(const fuse_setattr_in *asked) noexcept nogil:
    if not asked.valid & CHANGES or asked.valid & ~MEANT:
        return False
    return not (asked.valid & FATTR_MODE and asked.mode & SPECIAL)


cdef int change(int fd, const fuse_setattr_in *asked) noexcept nogil:
    """0, or -1 and errno."""
    cdef timespec times[2]
    if asked.valid & FATTR_SIZE and ftruncate(fd, <int64_t>asked.size) != 0:
        return -1
    if asked.valid & IDS and fchown(fd, uid_of(asked), gid_of(asked)) != 0:
        return -1
    if asked.valid & FATTR_MODE and fchmod(fd, asked.mode & 0o7777) != 0:
        return -1
    return futimens(fd, times) if set_times(times, asked) else 0


cdef int change_at(int fd, const fuse_setattr_in *asked) noexcept nogil:
    """The same for a directory, whose descriptor may be an O_PATH one."""
    cdef timespec times[2]
    if asked.valid & IDS and fchownat(fd, ".", uid_of(asked), gid_of(asked), 0) != 0:
        return -1
    if asked.valid & FATTR_MODE and fchmodat(fd, ".", asked.mode & 0o7777, 0) != 0:
        return -1
    return utimensat(fd, ".", times, 0) if set_times(times, asked) else 0


cdef uint32_t uid_of(const fuse_setattr_in *asked) noexcept nogil:
    return asked.uid if asked.valid & FATTR_UID else <uint32_t>-1


cdef uint32_t gid_of(const fuse_setattr_in *asked) noexcept nogil:
    return asked.gid if asked.valid & FATTR_GID else <uint32_t>-1


cdef bint set_times(timespec *times, const fuse_setattr_in *asked) noexcept nogil:
    """Whether there are any to set."""
    if not asked.valid & (FATTR_ATIME | FATTR_MTIME):
        return False
    set_time(&times[0], asked.valid, FATTR_ATIME, FATTR_ATIME_NOW, asked.atime, asked.atimensec)
    set_time(&times[1], asked.valid, FATTR_MTIME, FATTR_MTIME_NOW, asked.mtime, asked.mtimensec)
    return True


cdef void set_time(
    timespec *time, uint32_t valid, uint32_t given, uint32_t now, uint64_t seconds, uint32_t nanoseconds
) noexcept nogil:
    time.tv_sec, time.tv_nsec = <int64_t>seconds, <long>nanoseconds
    if valid & now:
        time.tv_nsec = UTIME_NOW
    elif not valid & given:
        time.tv_nsec = UTIME_OMIT
