"""Answers that take no more than a system call or two: given where the request is received, without Python or the GIL.

Of an overlay that is written to, these are most requests: a new file is looked for, written to, and has its times,
owner and mode set. The overlay tells here which descriptors its open upper files and directories have (know_...), and
takes that back before it closes one (forget()). What is answered here changes nothing that the overlay remembers; all
else, and each answer that would need it, is left to llfuse. Any thread; its own mutex is the innermost lock.

The formats are those of linux/fuse.h at the protocol's version 7.19, which libfuse 2.9 speaks.
"""

from cython.operator cimport dereference
from libc.errno cimport ENODATA, ENOENT, errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset, strlen
from libcpp.mutex cimport mutex
from libcpp.unordered_map cimport unordered_map


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *parts, int count)

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, int64_t off)
    int fchown(int fd, uint32_t uid, uint32_t gid)
    int ftruncate(int fd, int64_t size)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        int64_t tv_sec
        long tv_nsec

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        uint32_t st_mode
        uint32_t st_nlink
        uint32_t st_uid
        uint32_t st_gid
        int64_t st_size
        int64_t st_blocks
        timespec st_atim
        timespec st_mtim
        timespec st_ctim
    int fstat(int fd, stat_t *info)
    int fstatat(int fd, const char *name, stat_t *info, int flags)
    int fchmod(int fd, uint32_t mode)
    int futimens(int fd, const timespec *times)
    long UTIME_NOW
    long UTIME_OMIT
    uint32_t S_ISUID
    uint32_t S_ISGID

cdef extern from "<fcntl.h>" nogil:
    int AT_SYMLINK_NOFOLLOW

cdef extern from "<linux/fuse.h>" nogil:
    enum:
        FUSE_LOOKUP
        FUSE_GETATTR
        FUSE_SETATTR
        FUSE_WRITE
        FUSE_GETXATTR
        FATTR_MODE
        FATTR_UID
        FATTR_GID
        FATTR_SIZE
        FATTR_ATIME
        FATTR_MTIME
        FATTR_FH
        FATTR_ATIME_NOW
        FATTR_MTIME_NOW
        FATTR_LOCKOWNER
    cdef struct fuse_in_header:
        uint32_t len
        uint32_t opcode
        uint64_t unique
        uint64_t nodeid
    cdef struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique
    cdef struct fuse_attr:
        uint64_t ino
        uint64_t size
        uint64_t blocks
        uint64_t atime
        uint64_t mtime
        uint64_t ctime
        uint32_t atimensec
        uint32_t mtimensec
        uint32_t ctimensec
        uint32_t mode
        uint32_t nlink
        uint32_t uid
        uint32_t gid
        uint32_t blksize
    cdef struct fuse_attr_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fuse_attr attr
    cdef struct fuse_entry_out:
        uint64_t nodeid
        uint64_t entry_valid
        uint32_t entry_valid_nsec
    cdef struct fuse_setattr_in:
        uint32_t valid
        uint64_t size
        uint64_t atime
        uint64_t mtime
        uint32_t atimensec
        uint32_t mtimensec
        uint32_t mode
        uint32_t uid
        uint32_t gid
    cdef struct fuse_write_in:
        uint64_t offset
        uint32_t size
    cdef struct fuse_write_out:
        uint32_t size
    cdef struct fuse_getxattr_in:
        uint32_t size

# what is known of a node
cdef struct Known:
    int fd
    bint is_dir
    bint plain

# bytes that are written as quickly as others are let in meanwhile
cdef uint32_t SMALL = 1 << 16
cdef uint32_t BLOCK = 4096
cdef size_t NAME_MAX = 255
cdef const char *CAPABILITY = "security.capability"
cdef uint32_t CHANGES = (
    FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW
)
cdef uint32_t MEANT = CHANGES | FATTR_FH | FATTR_LOCKOWNER
cdef uint32_t IDS = FATTR_UID | FATTR_GID
cdef uint32_t SPECIAL = S_ISUID | S_ISGID

cdef mutex lock
cdef unordered_map[uint64_t, Known] known
cdef bint allowed = False
cdef double file_seconds = 0
cdef double dir_seconds = 0


def allow(double files, double directories):
    """From now on: for how many seconds the kernel may believe what it is told of names and files, and of directories.

    Ids and modes are those on disk.
    """
    global allowed, file_seconds, dir_seconds
    lock.lock()
    allowed, file_seconds, dir_seconds = True, files, directories
    lock.unlock()


def know_file(uint64_t ino, int fd, bint plain):
    """A regular file of the upper directory is open for reading and writing. `plain`: it has no extended attributes."""
    keep(ino, fd, False, plain)


def know_directory(uint64_t ino, int fd):
    """A directory shows what it has in the upper directory, and nothing else; `fd` may be an O_PATH one."""
    keep(ino, fd, True, False)


def forget(uint64_t ino):
    """Before a descriptor is closed, or a file is given an extended attribute."""
    lock.lock()
    known.erase(ino)
    lock.unlock()


cdef void keep(uint64_t ino, int fd, bint is_dir, bint plain) noexcept:
    cdef Known each
    each.fd, each.is_dir, each.plain = fd, is_dir, plain
    lock.lock()
    if allowed:
        known[ino] = each
    lock.unlock()


cdef bint answer(int device, const char *request, size_t size) noexcept nogil:
    """Answer a request that was received whole; whether that could be done."""
    cdef const fuse_in_header *head = <const fuse_in_header *>request
    cdef const char *body = request + sizeof(fuse_in_header)
    cdef bint answered = False
    if size <= sizeof(fuse_in_header):
        return False
    lock.lock()
    found = known.find(head.nodeid)
    if found != known.end():
        answered = answer_known(device, head, body, size - sizeof(fuse_in_header), &dereference(found).second)
    lock.unlock()
    return answered


cdef bint answer_known(
    int device, const fuse_in_header *head, const char *body, size_t size, const Known *node
) noexcept nogil:
    if head.opcode == FUSE_GETATTR:
        return answer_attributes(device, head, node)
    if node.is_dir:
        return head.opcode == FUSE_LOOKUP and answer_missing(device, head, body, node)
    if head.opcode == FUSE_WRITE:
        return answer_write(device, head, body, size, node)
    if head.opcode == FUSE_SETATTR:
        return answer_changes(device, head, <const fuse_setattr_in *>body, node)
    if head.opcode == FUSE_GETXATTR and node.plain:
        return answer_capability(device, head, body + sizeof(fuse_getxattr_in))
    return False


cdef bint reply(int device, const fuse_in_header *head, int error, const void *data, size_t size) noexcept nogil:
    """That nobody waits for it any more (ENOENT) is no matter."""
    cdef fuse_out_header out
    cdef iovec parts[2]
    out.len, out.error, out.unique = <uint32_t>(sizeof(out) + size), -error, head.unique
    parts[0].iov_base, parts[0].iov_len = &out, sizeof(out)
    parts[1].iov_base, parts[1].iov_len = <void *>data, size
    writev(device, parts, 2 if size else 1)
    return True


cdef bint reply_attributes(int device, const fuse_in_header *head, const stat_t *info, double seconds) noexcept nogil:
    cdef fuse_attr_out out
    memset(&out, 0, sizeof(out))
    out.attr_valid = <uint64_t>seconds
    out.attr_valid_nsec = <uint32_t>((seconds - <double>out.attr_valid) * 1e9)
    out.attr.ino, out.attr.mode, out.attr.nlink = head.nodeid, info.st_mode, info.st_nlink
    out.attr.uid, out.attr.gid, out.attr.size = info.st_uid, info.st_gid, <uint64_t>info.st_size
    out.attr.blocks, out.attr.blksize = <uint64_t>info.st_blocks, BLOCK
    out.attr.atime, out.attr.atimensec = <uint64_t>info.st_atim.tv_sec, <uint32_t>info.st_atim.tv_nsec
    out.attr.mtime, out.attr.mtimensec = <uint64_t>info.st_mtim.tv_sec, <uint32_t>info.st_mtim.tv_nsec
    out.attr.ctime, out.attr.ctimensec = <uint64_t>info.st_ctim.tv_sec, <uint32_t>info.st_ctim.tv_nsec
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_attributes(int device, const fuse_in_header *head, const Known *node) noexcept nogil:
    cdef stat_t info
    if fstat(node.fd, &info) != 0:
        return False
    return reply_attributes(device, head, &info, dir_seconds if node.is_dir else file_seconds)


cdef bint answer_missing(int device, const fuse_in_header *head, const char *name, const Known *node) noexcept nogil:
    """Only that there is no such name: what there is needs an inode."""
    cdef stat_t info
    cdef fuse_entry_out out
    if strlen(name) > NAME_MAX or fstatat(node.fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 or errno != ENOENT:
        return False
    memset(&out, 0, sizeof(out))
    out.entry_valid = <uint64_t>file_seconds
    out.entry_valid_nsec = <uint32_t>((file_seconds - <double>out.entry_valid) * 1e9)
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_write(
    int device, const fuse_in_header *head, const char *body, size_t size, const Known *node
) noexcept nogil:
    cdef const fuse_write_in *asked = <const fuse_write_in *>body
    cdef const char *data = body + sizeof(fuse_write_in)
    cdef fuse_write_out out
    cdef uint32_t done = 0
    cdef ssize_t written
    if asked.size > SMALL or size < sizeof(fuse_write_in) + asked.size:
        return False
    while done < asked.size:
        written = pwrite(node.fd, data + done, asked.size - done, <int64_t>(asked.offset + done))
        if written < 0:
            return reply(device, head, errno, NULL, 0)
        done += <uint32_t>written
    memset(&out, 0, sizeof(out))
    out.size = done
    return reply(device, head, 0, &out, sizeof(out))


cdef bint answer_capability(int device, const fuse_in_header *head, const char *name) noexcept nogil:
    """The kernel asks for it before each write."""
    if memcmp(name, CAPABILITY, strlen(CAPABILITY) + 1) != 0:
        return False
    return reply(device, head, ENODATA, NULL, 0)


cdef bint answer_changes(
    int device, const fuse_in_header *head, const fuse_setattr_in *asked, const Known *node
) noexcept nogil:
    """In the order in which none undoes another. Setuid and setgid, which a change of owner takes away, are not for us."""
    cdef stat_t info
    if not asked.valid & CHANGES or asked.valid & ~MEANT or fstat(node.fd, &info) != 0:
        return False
    if info.st_mode & SPECIAL or (asked.valid & FATTR_MODE and asked.mode & SPECIAL):
        return False
    if change(node.fd, asked) != 0 or fstat(node.fd, &info) != 0:
        return reply(device, head, errno, NULL, 0)
    return reply_attributes(device, head, &info, file_seconds)


cdef int change(int fd, const fuse_setattr_in *asked) noexcept nogil:
    """0, or -1 and errno."""
    cdef uint32_t nobody = <uint32_t>-1
    cdef timespec times[2]
    if asked.valid & FATTR_SIZE and ftruncate(fd, <int64_t>asked.size) != 0:
        return -1
    if asked.valid & IDS and fchown(
        fd,
        asked.uid if asked.valid & FATTR_UID else nobody,
        asked.gid if asked.valid & FATTR_GID else nobody,
    ) != 0:
        return -1
    if asked.valid & FATTR_MODE and fchmod(fd, asked.mode & 0o7777) != 0:
        return -1
    if not asked.valid & (FATTR_ATIME | FATTR_MTIME):
        return 0
    set_time(&times[0], asked.valid, FATTR_ATIME, FATTR_ATIME_NOW, asked.atime, asked.atimensec)
    set_time(&times[1], asked.valid, FATTR_MTIME, FATTR_MTIME_NOW, asked.mtime, asked.mtimensec)
    return futimens(fd, times)


cdef void set_time(
    timespec *time, uint32_t valid, uint32_t given, uint32_t now, uint64_t seconds, uint32_t nanoseconds
) noexcept nogil:
    time.tv_sec, time.tv_nsec = <int64_t>seconds, <long>nanoseconds
    if valid & now:
        time.tv_nsec = UTIME_NOW
    elif not valid & given:
        time.tv_nsec = UTIME_OMIT
