# What the kernel asks, and is answered (linux/fuse.h): of it, what our modules need.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "<linux/fuse.h>" nogil:
    enum:
        FUSE_BATCH_FORGET
        FUSE_CREATE
        FUSE_FORGET
        FUSE_FSYNCDIR
        FUSE_GETATTR
        FUSE_INIT
        FUSE_LOOKUP
        FUSE_NOTIFY_INVAL_INODE
        FUSE_OPEN
        FUSE_OPENDIR
        FUSE_READ
        FUSE_READDIR
        FUSE_READDIRPLUS
        FUSE_RELEASE
        FUSE_RELEASEDIR
        FUSE_UNLINK
        FOPEN_KEEP_CACHE
        FUSE_ASYNC_READ
        FUSE_BIG_WRITES
        FUSE_DO_READDIRPLUS
        FUSE_READDIRPLUS_AUTO
        FUSE_HANDLE_KILLPRIV_V2
        FUSE_WRITE_KILL_SUIDGID
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
        FATTR_KILL_SUIDGID
    cdef struct fuse_in_header:
        uint32_t len
        uint32_t opcode
        uint64_t unique
        uint64_t nodeid
        uint32_t uid
        uint32_t gid
        uint32_t pid
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
        uint32_t rdev
        uint32_t blksize
    cdef struct fuse_attr_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fuse_attr attr
    cdef struct fuse_entry_out:
        uint64_t nodeid
        uint64_t entry_valid
        uint32_t entry_valid_nsec
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fuse_attr attr
    cdef struct fuse_dirent:
        uint64_t ino
        uint64_t off
        uint32_t namelen
        uint32_t type
    cdef struct fuse_init_in:
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags
    cdef struct fuse_init_out:
        uint32_t major
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags
        uint32_t max_write
    cdef struct fuse_notify_inval_inode_out:
        uint64_t ino
        int64_t off
        int64_t len
    cdef struct fuse_read_in:
        uint64_t fh
        uint64_t offset
        uint32_t size
    cdef struct fuse_release_in:
        uint64_t fh
    cdef struct fuse_fsync_in:
        uint64_t fh
    cdef struct fuse_create_in:
        uint32_t mode
    cdef struct fuse_open_in:
        uint32_t flags
    cdef struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags
    cdef struct fuse_forget_in:
        uint64_t nlookup
    cdef struct fuse_forget_one:
        uint64_t nodeid
        uint64_t nlookup
    cdef struct fuse_batch_forget_in:
        uint32_t count
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
        uint32_t write_flags
    cdef struct fuse_write_out:
        uint32_t size
    cdef struct fuse_getxattr_in:
        uint32_t size
