"""Lay out a merged tree as an EROFS image without data, piece by piece.

What overlayfs needs to stack it over the files' bytes is in it, and what it would take for marks of its own is escaped
(Linux, filesystems/overlayfs.rst, "Nesting overlayfs mounts"). The superblock is left to the caller. Layout:

    1152           xattrs that are shared, and from the next multiple of 32 on the inodes, breadth first, the root's
                   first; behind each its xattrs, and behind these the last part of a directory, a symlink's target, or
                   the chunks of a file, which are all holes
    a block        directories and targets that don't fit there

A name of the format's: nid, an inode's place in units of 32 bytes. Pure; one thread at a time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.unordered_set cimport unordered_set
from libcpp.vector cimport vector

from crfs._native.contents cimport NAME_MAX, Contents
from crfs._native.index cimport Dentry, Inode, Tree

from crfs.errors import FormatError

cdef enum:
    BLOCK = 4096
    # a nid counts in these
    SLOT = 32
    COMPACT = 32
    EXTENDED = 64
    SUPER_END = 1152
    # what is shared ends before the root's nid needs more than 16 bits
    SHARED_MAX = 1 << 20
    DIRENT = 12
    XATTR_HEADER = 12
    # a last part of this size has room behind any inode, if need be at the beginning of a block
    TAIL_MAX = 4064
    PIECE = 1 << 20
    # the largest chunk has 2 ** 43 bytes
    CHUNK_BITS_MIN = 12
    CHUNK_BITS_MAX = 43

# layouts of an inode's data
cdef enum:
    FLAT_PLAIN = 0
    FLAT_INLINE = 2
    CHUNK_BASED = 4

# prefixes of xattrs' names
cdef enum:
    XATTR_USER = 1
    XATTR_ACL_ACCESS = 2
    XATTR_ACL_DEFAULT = 3
    XATTR_TRUSTED = 4
    XATTR_SECURITY = 6

cdef uint32_t S_IFMT = 0o170000
cdef uint32_t S_IFDIR = 0o040000
cdef uint32_t S_IFREG = 0o100000
cdef uint32_t S_IFLNK = 0o120000
cdef uint32_t S_IFCHR = 0o020000
cdef uint32_t S_IFBLK = 0o060000
cdef uint32_t S_IFIFO = 0o010000
cdef uint32_t NONE = 0xFFFFFFFF
cdef const char *DOTS = b".."
cdef const char *OVERLAY = b"trusted.overlay."
cdef size_t OVERLAY_LENGTH = 16
cdef const char *OPAQUE = b"trusted.overlay.opaque"
cdef size_t OPAQUE_LENGTH = 22

cdef enum Status:
    OK = 0
    XATTR_TOO_LONG = 1
    XATTRS_TOO_MANY = 2
    TOO_LARGE = 3


# a directory's names in the order of bytes, with `.` and `..` among them
cdef struct Cursor:
    uint32_t inode
    uint32_t next
    uint32_t end
    uint32_t dots


cdef struct Name:
    const char *text
    uint32_t length
    uint32_t inode


# how an inode is written: bytes of its core, layout and size of its data; bytes behind its xattrs, whole blocks elsewhere
cdef struct Plan:
    uint32_t core
    uint32_t layout
    uint64_t size
    uint64_t behind
    uint64_t blocks


cdef uint64_t _up(uint64_t value, uint64_t unit) noexcept nogil:
    return (value + unit - 1) // unit * unit


cdef void _put16(string *out, uint32_t value) noexcept nogil:
    cdef uint16_t narrow = <uint16_t>value
    out.append(<const char *>&narrow, 2)


cdef void _put32(string *out, uint32_t value) noexcept nogil:
    out.append(<const char *>&value, 4)


cdef void _put64(string *out, uint64_t value) noexcept nogil:
    out.append(<const char *>&value, 8)


cdef void _put_xattr(string *out, int prefix, const char *name, size_t name_length,
                     const char *value, size_t value_length) noexcept nogil:
    """An xattr's entry: lengths, prefix, the rest of the name, value."""
    out.push_back(<char>name_length)
    out.push_back(<char>prefix)
    _put16(out, <uint32_t>value_length)
    out.append(name, name_length)
    out.append(value, value_length)
    out.append(_up(out.size(), 4) - out.size(), 0)


cdef bint _is_acl(const unsigned char *value, size_t length) noexcept nogil:
    """Whether this is an ACL that the kernel would have taken; with any other, the file could not be used."""
    cdef size_t at = 4
    if length < 4 or (length - 4) % 8 or memcmp(value, b"\x02\0\0\0", 4):
        return False
    while at < length:
        if value[at] not in (1, 2, 4, 8, 16, 32) or value[at + 1]:
            return False
        at += 8
    return True


cdef bint _starts(const char *name, size_t length, const char *prefix, size_t size) noexcept nogil:
    return length >= size and memcmp(name, prefix, size) == 0


cdef int _encode(string *out, const char *name, size_t length, const char *value, size_t value_length) noexcept nogil:
    """Append the entry of an xattr, or nothing if it is of a kind that EROFS has no prefix for."""
    cdef string escaped
    if value_length > 0xFFFF:
        return XATTR_TOO_LONG
    if _starts(name, length, b"user.", 5):
        _put_xattr(out, XATTR_USER, name + 5, length - 5, value, value_length)
    elif _starts(name, length, b"security.", 9):
        _put_xattr(out, XATTR_SECURITY, name + 9, length - 9, value, value_length)
    elif _starts(name, length, OVERLAY, OVERLAY_LENGTH):
        escaped.append(b"overlay.", 8)
        escaped.append(name + 8, length - 8)
        if escaped.size() + 8 > 255:
            return XATTR_TOO_LONG
        _put_xattr(out, XATTR_TRUSTED, escaped.data(), escaped.size(), value, value_length)
    elif _starts(name, length, b"trusted.", 8):
        _put_xattr(out, XATTR_TRUSTED, name + 8, length - 8, value, value_length)
    elif length == 23 and _starts(name, length, b"system.posix_acl_access", 23):
        if _is_acl(<const unsigned char *>value, value_length):
            _put_xattr(out, XATTR_ACL_ACCESS, name, 0, value, value_length)
    elif length == 24 and _starts(name, length, b"system.posix_acl_default", 24):
        if _is_acl(<const unsigned char *>value, value_length):
            _put_xattr(out, XATTR_ACL_DEFAULT, name, 0, value, value_length)
    return OK


cdef int _file_type(uint32_t mode) noexcept nogil:
    mode = mode & S_IFMT
    if mode == S_IFREG:
        return 1
    if mode == S_IFDIR:
        return 2
    if mode == S_IFCHR:
        return 3
    if mode == S_IFBLK:
        return 4
    if mode == S_IFIFO:
        return 5
    return 7 if mode == S_IFLNK else 6


cdef uint32_t _chunk_bits(uint64_t size) noexcept nogil:
    """The smallest chunk that holds the whole file, or the largest there is."""
    cdef uint32_t bits = CHUNK_BITS_MIN
    while bits < CHUNK_BITS_MAX and (<uint64_t>1 << bits) < size:
        bits += 1
    return bits


cdef class Writer:
    """Iterate over it for the pieces of the image; FormatError where EROFS can't hold the tree.

    The first piece is a block or more, with zeros for the superblock. `contents` names the files' bytes.
    """

    cdef Tree tree
    cdef Contents contents
    cdef int64_t epoch
    # by inode: its nid, and where its blocks begin, counted from the first of them all
    cdef vector[uint32_t] nids
    cdef vector[uint32_t] starts
    cdef uint64_t inode_end
    cdef uint64_t data_blocks
    # entries of xattrs that are shared, and where they are
    cdef unordered_map[string, uint32_t] shared
    cdef string shared_bytes
    # directories with a device in them that overlayfs would take for a whiteout
    cdef unordered_set[uint32_t] marked
    # what has not been handed out, and how far the image is written with it
    cdef string out
    cdef uint64_t written
    cdef uint32_t next_inode
    cdef uint32_t next_data
    # of the inode at hand
    cdef string body
    cdef string inline_xattrs
    cdef string entry
    cdef vector[uint32_t] ids
    cdef vector[Name] names

    def __init__(self, Tree tree, Contents contents):
        cdef int status
        if contents.tree is not tree:
            raise ValueError("the contents are another tree's")
        self.tree, self.contents = tree, contents
        with nogil:
            self.elect()
            self.mark()
            self.share()
            status = self.lay_out()
        if status == XATTR_TOO_LONG:
            raise FormatError("an extended attribute is too long for EROFS")
        if status == XATTRS_TOO_MANY:
            raise FormatError("a file has more extended attributes than EROFS can hold")
        if status == TOO_LARGE:
            raise FormatError("the image has more names or files than EROFS can hold")

    @property
    def blocks(self):
        """The image's size in blocks of 4096 bytes."""
        return _up(self.inode_end, BLOCK) // BLOCK + self.data_blocks

    @property
    def root_nid(self):
        """Where the root is; 16 bits."""
        return self.nids[0]

    @property
    def epoch_ns(self):
        """The time of all inodes that do not say theirs."""
        return self.epoch

    def __iter__(self):
        return self

    def __next__(self):
        with nogil:
            self.write_some()
        if self.out.empty():
            raise StopIteration
        piece = <bytes>self.out
        self.written += self.out.size()
        self.out.clear()
        return piece

    # before a byte is written

    cdef void elect(self) noexcept nogil:
        """The time that most files have, if more than half have one: these get by with a compact inode."""
        cdef uint32_t i, count = 0
        for i in range(self.tree.header.inodes):
            if count == 0:
                self.epoch = self.tree.inode_table[i].mtime_ns
            if self.tree.inode_table[i].mtime_ns == self.epoch:
                count += 1
            else:
                count -= 1

    cdef bint is_whiteout(self, uint32_t inode) noexcept nogil:
        return self.tree.inode_table[inode].mode & S_IFMT == S_IFCHR and self.tree.inode_table[inode].rdev == 0

    cdef void mark(self) noexcept nogil:
        cdef const Inode *at
        cdef uint32_t i, j
        for i in range(self.tree.header.inodes):
            at = &self.tree.inode_table[i]
            if at.mode & S_IFMT != S_IFDIR:
                continue
            for j in range(at.first, at.first + at.count):
                if self.is_whiteout(self.tree.dentry_table[j].inode):
                    self.marked.insert(i)

    cdef void share(self) noexcept nogil:
        """Have all xattrs that more than one inode has written once."""
        cdef unordered_map[string, uint32_t] counts
        cdef const unsigned char *data
        cdef uint32_t i, off, repeat
        self.entry.clear()
        _put_xattr(&self.entry, XATTR_TRUSTED, b"overlay.metacopy", 16, NULL, 0)
        self.add_shared()
        for repeat in range(2):
            for i in range(self.tree.header.inodes):
                data = self.tree.heap + self.tree.inode_table[i].xattr_off
                off = 0
                while off < self.tree.inode_table[i].xattr_len:
                    off += self.encode_at(data + off)
                    if repeat == 0:
                        counts[self.entry] += 1
                    elif counts[self.entry] > 1 and not self.shared.count(self.entry):
                        self.add_shared()

    cdef void add_shared(self) noexcept nogil:
        if not self.entry.empty() and self.shared_bytes.size() + self.entry.size() <= SHARED_MAX:
            self.shared[self.entry] = <uint32_t>((SUPER_END + self.shared_bytes.size()) // 4)
            self.shared_bytes.append(self.entry)

    cdef uint32_t encode_at(self, const unsigned char *record) noexcept nogil:
        """Make the tree's xattr at `record` the entry at hand; its length in the tree."""
        cdef uint32_t length = record[0] | record[1] << 8
        cdef uint32_t value = record[2] | record[3] << 8 | record[4] << 16 | <uint32_t>record[5] << 24
        cdef const char *name = <const char *>record + 6
        self.entry.clear()
        if _encode(&self.entry, name, length, name + length, value) != OK:
            self.entry.clear()
        return 6 + length + value

    cdef int lay_out(self) noexcept nogil:
        """Find a place for everything."""
        cdef uint64_t at = _up(SUPER_END + self.shared_bytes.size(), SLOT), behind
        cdef uint32_t i
        cdef Plan plan
        cdef int status
        self.nids.reserve(self.tree.header.inodes)
        self.starts.reserve(self.tree.header.inodes)
        for i in range(self.tree.header.inodes):
            status = self.build_body(i)
            if status != OK:
                return status
            plan = self.plan(i)
            behind = at + plan.core + self.body.size()
            # the last part of anything lies in one block
            if plan.layout == FLAT_INLINE and behind % BLOCK + plan.behind > BLOCK:
                at += _up(BLOCK - behind % BLOCK, SLOT)
                behind = at + plan.core + self.body.size()
            self.nids.push_back(<uint32_t>(at // SLOT))
            self.starts.push_back(<uint32_t>self.data_blocks if plan.blocks else NONE)
            self.data_blocks += plan.blocks
            at = _up(behind + plan.behind, SLOT)
            if at // SLOT >= NONE or self.data_blocks + at // BLOCK + 1 >= NONE:
                return TOO_LARGE
        # fsck.erofs reads the header of xattrs behind the last inode also where it has none
        self.inode_end = at + XATTR_HEADER
        return OK

    cdef Plan plan(self, uint32_t inode) noexcept nogil:
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef Plan plan = Plan(COMPACT, FLAT_PLAIN, 0, 0, 0)
        cdef uint64_t tail
        if at.mode & S_IFMT == S_IFDIR:
            tail = self.walk_blocks(inode, 0, 0, &plan.blocks)
            plan.size = plan.blocks * BLOCK + tail
            self.plan_tail(&plan, tail)
        elif at.mode & S_IFMT == S_IFLNK:
            plan.size, plan.blocks = at.count, at.count // BLOCK
            self.plan_tail(&plan, at.count % BLOCK)
        elif at.mode & S_IFMT == S_IFREG and at.size:
            plan.layout, plan.size = CHUNK_BASED, at.size
            plan.behind = ((at.size - 1) >> _chunk_bits(at.size)) * 4 + 4
        if (at.uid | at.gid | at.nlink) >> 16 or plan.size >> 32 or at.mtime_ns != self.epoch:
            plan.core = EXTENDED
        return plan

    cdef void plan_tail(self, Plan *plan, uint64_t tail) noexcept nogil:
        if 0 < tail <= TAIL_MAX:
            plan.layout, plan.behind = FLAT_INLINE, tail
        else:
            plan.blocks += tail > 0

    # xattrs

    cdef int build_body(self, uint32_t inode) noexcept nogil:
        """Make all xattrs of an inode, with their header, the body at hand; empty where it has none."""
        cdef char name[NAME_MAX + 1]
        cdef size_t length
        cdef int status
        self.ids.clear()
        self.inline_xattrs.clear()
        self.body.clear()
        length = self.contents.put_name(inode, name + 1)
        if length:
            name[0] = 47
            self.ids.push_back(SUPER_END // 4)
            _put_xattr(&self.inline_xattrs, XATTR_TRUSTED, b"overlay.redirect", 16, name, length + 1)
        if self.is_whiteout(inode):
            _put_xattr(&self.inline_xattrs, XATTR_TRUSTED, b"overlay.overlay.whiteout", 24, NULL, 0)
        status = self.add_own(inode)
        if status != OK or (self.inline_xattrs.empty() and self.ids.empty()):
            return status
        _put32(&self.body, 0)
        self.body.push_back(<char>self.ids.size())
        self.body.append(7, 0)
        self.body.append(<const char *>self.ids.data(), self.ids.size() * 4)
        self.body.append(self.inline_xattrs)
        return OK if self.body.size() <= 0xFFFF * 4 else XATTRS_TOO_MANY

    cdef int add_own(self, uint32_t inode) noexcept nogil:
        """The xattrs that the tree has, and the mark of a directory with escaped whiteouts."""
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef const unsigned char *record = self.tree.heap + at.xattr_off
        cdef const unsigned char *end = record + at.xattr_len
        cdef bint opaque = not self.marked.count(inode)
        cdef uint32_t length
        while record < end:
            length = record[0] | record[1] << 8
            opaque = opaque or (length == OPAQUE_LENGTH and memcmp(record + 6, OPAQUE, OPAQUE_LENGTH) == 0)
            length = self.encode_at(record)
            if self.entry.empty() and self.is_too_long(record):
                return XATTR_TOO_LONG
            record += length
            if not self.entry.empty():
                if self.shared.count(self.entry) and self.ids.size() < 255:
                    self.ids.push_back(self.shared[self.entry])
                else:
                    self.inline_xattrs.append(self.entry)
        if not opaque:
            _put_xattr(&self.inline_xattrs, XATTR_TRUSTED, b"overlay.overlay.opaque", 22, b"x", 1)
        return OK

    cdef bint is_too_long(self, const unsigned char *record) noexcept nogil:
        cdef string unused
        cdef uint32_t length = record[0] | record[1] << 8
        cdef uint32_t value = record[2] | record[3] << 8 | record[4] << 16 | <uint32_t>record[5] << 24
        cdef const char *name = <const char *>record + 6
        return _encode(&unused, name, length, name + length, value) == XATTR_TOO_LONG

    # directories

    cdef bint step(self, Cursor *cursor, Name *name) noexcept nogil:
        """The next name of a directory; whether there was one."""
        cdef const Dentry *dentry = NULL
        cdef const char *text = NULL
        if cursor.next < cursor.end:
            dentry = &self.tree.dentry_table[cursor.next]
            text = <const char *>self.tree.heap + dentry.name_off
        if cursor.dots < 2 and (dentry == NULL or self.is_behind(text, dentry.name_len, cursor.dots + 1)):
            cursor.dots += 1
            name.text, name.length = DOTS, cursor.dots
            name.inode = cursor.inode if cursor.dots == 1 else self.tree.inode_table[cursor.inode].parent
            return True
        if dentry == NULL:
            return False
        name.text, name.length, name.inode = text, dentry.name_len, dentry.inode
        cursor.next += 1
        return True

    cdef bint is_behind(self, const char *text, uint32_t length, uint32_t dots) noexcept nogil:
        """Whether a name comes behind that many dots."""
        cdef int order = memcmp(text, DOTS, length if length < dots else dots)
        return order > 0 or (order == 0 and length >= dots)

    cdef uint64_t walk_blocks(self, uint32_t inode, uint64_t first, uint64_t last, uint64_t *full) noexcept nogil:
        """Write the blocks [first, last) of a directory; the bytes in its last, and how many come before."""
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef Cursor cursor = Cursor(inode, at.first, at.first + at.count, 0)
        cdef Name name
        cdef uint64_t used = 0
        full[0] = 0
        self.names.clear()
        while self.step(&cursor, &name):
            if used + DIRENT + name.length > BLOCK:
                if first <= full[0] < last:
                    self.put_names()
                    self.pad(BLOCK)
                self.names.clear()
                full[0] += 1
                used = 0
            used += DIRENT + name.length
            self.names.push_back(name)
        if first <= full[0] < last:
            self.put_names()
        return used

    cdef void put_names(self) noexcept nogil:
        """One block of a directory."""
        cdef uint32_t off = <uint32_t>self.names.size() * DIRENT, mode
        cdef size_t i
        for i in range(self.names.size()):
            mode = S_IFREG if self.is_whiteout(self.names[i].inode) else self.tree.inode_table[self.names[i].inode].mode
            _put64(&self.out, self.nids[self.names[i].inode])
            _put16(&self.out, off)
            self.out.push_back(<char>_file_type(mode))
            self.out.push_back(0)
            off += self.names[i].length
        for i in range(self.names.size()):
            self.out.append(self.names[i].text, self.names[i].length)

    # the image

    cdef void pad(self, uint64_t unit) noexcept nogil:
        """Zeros up to the next multiple of `unit`."""
        cdef uint64_t at = self.written + self.out.size()
        self.out.append(_up(at, unit) - at, 0)

    cdef void write_some(self) noexcept nogil:
        """Write on until there is a piece, or the end."""
        if self.next_inode == 0:
            self.out.append(SUPER_END, 0)
            self.out.append(self.shared_bytes)
        while self.out.size() < PIECE and self.next_inode < self.nids.size():
            self.write_inode(self.next_inode)
            self.next_inode += 1
            if self.next_inode == self.nids.size():
                self.out.append(self.inode_end - self.written - self.out.size(), 0)
                self.pad(BLOCK)
        while self.out.size() < PIECE and self.next_inode == self.nids.size() and self.next_data < self.nids.size():
            if self.starts[self.next_data] != NONE:
                self.write_data(self.next_data)
            self.next_data += 1

    cdef void write_inode(self, uint32_t inode) noexcept nogil:
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef Plan plan = self.plan(inode)
        cdef uint64_t place = <uint64_t>self.nids[inode] * SLOT, i
        self.build_body(inode)
        self.out.append(place - self.written - self.out.size(), 0)
        self.put_core(inode, &plan)
        self.out.append(self.body)
        if plan.layout == CHUNK_BASED:
            for i in range(plan.behind // 4):
                _put32(&self.out, NONE)
        elif plan.layout == FLAT_INLINE and at.mode & S_IFMT == S_IFDIR:
            self.walk_blocks(inode, plan.blocks, plan.blocks + 1, &i)
        elif plan.layout == FLAT_INLINE:
            self.out.append(<const char *>self.tree.heap + at.first + plan.blocks * BLOCK, plan.behind)
        self.pad(4)

    cdef void put_core(self, uint32_t inode, const Plan *plan) noexcept nogil:
        """The inode proper, compact or extended."""
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef bint extended = plan.core == EXTENDED
        cdef int64_t seconds = at.mtime_ns // 1000000000
        if at.mtime_ns % 1000000000 < 0:
            seconds -= 1
        _put16(&self.out, extended | plan.layout << 1)
        _put16(&self.out, <uint32_t>(self.body.size() - XATTR_HEADER) // 4 + 1 if self.body.size() else 0)
        _put16(&self.out, at.mode & 0o7777 | S_IFREG if self.is_whiteout(inode) else at.mode)
        if extended:
            _put16(&self.out, 0)
            _put64(&self.out, plan.size)
        else:
            _put16(&self.out, at.nlink)
            _put32(&self.out, <uint32_t>plan.size)
            _put32(&self.out, 0)
        _put32(&self.out, self.address(inode, plan))
        _put32(&self.out, inode + 1)
        if extended:
            _put32(&self.out, at.uid)
            _put32(&self.out, at.gid)
            _put64(&self.out, <uint64_t>seconds)
            _put32(&self.out, <uint32_t>(at.mtime_ns - seconds * 1000000000))
            _put32(&self.out, at.nlink)
            self.out.append(16, 0)
        else:
            _put16(&self.out, at.uid)
            _put16(&self.out, at.gid)
            self.out.append(4, 0)

    cdef uint32_t address(self, uint32_t inode, const Plan *plan) noexcept nogil:
        """What an inode says of its data: a block, the size of chunks, or a device's number."""
        cdef const Inode *at = &self.tree.inode_table[inode]
        if plan.layout == CHUNK_BASED:
            return _chunk_bits(at.size) - CHUNK_BITS_MIN
        if plan.blocks:
            return <uint32_t>(_up(self.inode_end, BLOCK) // BLOCK) + self.starts[inode]
        return at.rdev if at.mode & S_IFMT == S_IFCHR or at.mode & S_IFMT == S_IFBLK else 0

    cdef void write_data(self, uint32_t inode) noexcept nogil:
        cdef const Inode *at = &self.tree.inode_table[inode]
        cdef Plan plan = self.plan(inode)
        cdef uint64_t full
        if at.mode & S_IFMT == S_IFDIR:
            self.walk_blocks(inode, 0, plan.blocks, &full)
        else:
            self.out.append(<const char *>self.tree.heap + at.first, plan.size - plan.behind)
        self.pad(BLOCK)
