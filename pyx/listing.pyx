"""What the kernel reads of a directory: entries as linux/fuse.h lays them out (fuse_dirent, fuse_direntplus). Pure."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from crfs._native.protocol cimport fuse_attr, fuse_dirent, fuse_entry_out

cdef enum:
    HEADER = 24
    BLOCK = 4096
    BILLION = 1_000_000_000


cdef class Listing:
    """Up to `size` bytes of entries; `plus`: each with what a lookup would say."""

    def __init__(self, Py_ssize_t size, bint plus):
        self.data = bytearray(size)
        self.plus = plus

    def has_room(self, bytes name not None) -> bool:
        """Whether one more entry fits in."""
        return self.filled + self.taken(len(name)) <= len(self.data)

    def taken_bytes(self) -> bytes:
        """All entries."""
        return bytes(self.data[: self.filled])

    def add(self, bytes name not None, uint64_t off, uint64_t ino, uint32_t mode):
        """A name, its number and type; has_room() has said that it fits. `off`: where the next one is."""
        cdef fuse_entry_out entry
        memset(&entry, 0, sizeof(entry))
        self.put(name, off, ino, mode, &entry)

    def add_known(
        self, bytes name not None, uint64_t off, uint64_t ino, double name_seconds, double seconds,
        uint32_t mode, uint32_t nlink, uint32_t uid, uint32_t gid, uint32_t rdev, uint64_t size, uint64_t blocks,
        int64_t atime_ns, int64_t mtime_ns, int64_t ctime_ns,
    ):
        """The same, with what the kernel may believe of it, and for how long: one reference more of the kernel's."""
        cdef fuse_entry_out entry
        cdef fuse_attr *attr = &entry.attr
        memset(&entry, 0, sizeof(entry))
        entry.nodeid = attr.ino = ino
        entry.entry_valid, entry.attr_valid = <uint64_t>name_seconds, <uint64_t>seconds
        entry.entry_valid_nsec = <uint32_t>((name_seconds - <double>entry.entry_valid) * BILLION)
        entry.attr_valid_nsec = <uint32_t>((seconds - <double>entry.attr_valid) * BILLION)
        attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev = mode, nlink, uid, gid, rdev
        attr.size, attr.blocks, attr.blksize = size, blocks, BLOCK
        set_time(atime_ns, &attr.atime, &attr.atimensec)
        set_time(mtime_ns, &attr.mtime, &attr.mtimensec)
        set_time(ctime_ns, &attr.ctime, &attr.ctimensec)
        self.put(name, off, ino, mode, &entry)

    cdef Py_ssize_t taken(self, Py_ssize_t name_size) noexcept:
        return (<Py_ssize_t>sizeof(fuse_entry_out) if self.plus else 0) + (HEADER + name_size + 7) // 8 * 8

    cdef int put(
        self, bytes name, uint64_t off, uint64_t ino, uint32_t mode, const fuse_entry_out *entry
    ) except -1:
        cdef char *at = <char *>self.data + self.filled
        cdef fuse_dirent *dirent
        if self.filled + self.taken(len(name)) > len(self.data):
            raise ValueError("there is no room for another entry")
        if self.plus:
            memcpy(at, entry, sizeof(fuse_entry_out))
            at += sizeof(fuse_entry_out)
        dirent = <fuse_dirent *>at
        dirent.ino, dirent.off, dirent.namelen, dirent.type = ino, off, <uint32_t>len(name), mode >> 12 & 15
        memcpy(at + HEADER, <const char *>name, <size_t>len(name))
        self.filled += self.taken(len(name))
        return 0


cdef void set_time(int64_t time_ns, uint64_t *seconds, uint32_t *nanoseconds) noexcept nogil:
    cdef int64_t whole = time_ns // BILLION
    # cdivision: towards zero, and a time may be before 1970
    if time_ns - whole * BILLION < 0:
        whole -= 1
    seconds[0], nanoseconds[0] = <uint64_t>whole, <uint32_t>(time_ns - whole * BILLION)
