"""The entries of one layer in the order of its tar, in flat records: what a TOC or tar headers are read into.

No rule of merging lives here, only what each entry says; union reads the records. Filled by one thread,
then sealed and immutable.
"""

from libc.string cimport memcpy, memset
from libcpp.algorithm cimport sort
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs.errors import FormatError

cdef int NAME_LIMIT = 255
cdef uint32_t S_IFMT = 0o170000
cdef uint32_t S_IFDIR = 0o040000
cdef uint32_t S_IFREG = 0o100000
cdef uint32_t S_IFLNK = 0o120000
cdef uint32_t S_IFCHR = 0o020000
cdef uint32_t S_IFBLK = 0o060000
cdef uint32_t S_IFIFO = 0o010000
cdef uint32_t S_IFSOCK = 0o140000
cdef uint32_t MAX_DEPTH = 2048
cdef Py_ssize_t MARK_LENGTH = 4
cdef uint64_t MAX_SIZE = <uint64_t>1 << 62


def clean_path(path):
    """`path` as a path below the root: no empty, `.` or `..` component, no slash at either end; b"" is the root.

    `..` never climbs above the root. FormatError for a name over 255 bytes, a NUL, or more than 2,048 levels; a
    whiteout's own name may have the 4 bytes of its mark on top.
    """
    cdef list parts = []
    cdef Py_ssize_t limit
    for part in (<bytes?>path).split(b"/"):
        if part == b"" or part == b".":
            continue
        if part == b"..":
            if parts:
                parts.pop()
            continue
        if b"\0" in part:
            raise FormatError(f"{path!r} has a name that no file can have")
        parts.append(part)
    for at, part in enumerate(parts, 1):
        limit = NAME_LIMIT + (MARK_LENGTH if at == len(parts) and part.startswith(b".wh.") else 0)
        if len(part) > limit:
            raise FormatError(f"{path!r} has a name that no file can have")
    if len(parts) > MAX_DEPTH:
        raise FormatError(f"{path[:80]!r}... is nested {len(parts)} levels deep")
    return b"/".join(parts)


cdef inline bint _is_clean(const unsigned char *path, Py_ssize_t length) noexcept nogil:
    """Whether clean_path() would return `path` as it is; false where only a closer look can say."""
    cdef Py_ssize_t at, start = 0
    cdef uint32_t depth = 1
    for at in range(length + 1):
        if at == length or path[at] == 47:
            if at == start or at - start > 255 or (path[start] == 46 and at - start <= 2):
                return length == 0
            start = at + 1
            depth += 1
        elif path[at] == 0:
            return False
    return depth <= MAX_DEPTH


cdef inline bytes _cleaned(bytes path):
    return path if _is_clean(path, len(path)) else clean_path(path)


cdef int64_t _days(int64_t year, int64_t month, int64_t day) noexcept nogil:
    """Days from 1970-01-01 to a date of the proleptic Gregorian calendar."""
    cdef int64_t era, year_of_era, day_of_year
    if month <= 2:
        year -= 1
        month += 12
    era = year // 400 if year >= 0 else (year - 399) // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month - 3) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


cdef int _month_days(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if (year % 4 == 0 and year % 100 != 0) or year % 400 == 0 else 28
    return 30 if month in (4, 6, 9, 11) else 31


cdef inline int _number(const unsigned char *text, int count) noexcept nogil:
    """`count` decimal digits as a number; -1 if one is none."""
    cdef int value = 0, i
    for i in range(count):
        if text[i] < 48 or text[i] > 57:
            return -1
        value = value * 10 + text[i] - 48
    return value


cpdef int64_t parse_time(str text) except? -1:
    """An RFC 3339 time as ns since 1970, cut to whole ns; 0 for "" and for times that no int64 of ns holds.

    FormatError for what is no such time.
    """
    cdef bytes raw = text.encode()
    cdef const unsigned char *at = raw
    cdef Py_ssize_t length = len(raw)
    cdef int year, month, day, hour, minute, second, zone_hour, zone_minute
    cdef int64_t nanos = 0, scale = 100000000, seconds
    cdef Py_ssize_t pos = 19
    if length == 0:
        return 0
    if length < 20:
        raise FormatError(f"{text!r} is no time")
    year, month, day = _number(at, 4), _number(at + 5, 2), _number(at + 8, 2)
    hour, minute, second = _number(at + 11, 2), _number(at + 14, 2), _number(at + 17, 2)
    if min(year, month, day, hour, minute, second) < 0 or not 1 <= month <= 12:
        raise FormatError(f"{text!r} is no time")
    if not 1 <= day <= _month_days(year, month) or hour > 23 or minute > 59 or second > 60:
        raise FormatError(f"{text!r} is no time")
    if at[4] != 45 or at[7] != 45 or at[10] not in (84, 116) or at[13] != 58 or at[16] != 58:
        raise FormatError(f"{text!r} is no time")
    if at[pos] == 46 and 48 <= at[pos + 1] <= 57:
        pos += 1
        while pos < length and 48 <= at[pos] <= 57:
            nanos += (at[pos] - 48) * scale
            scale //= 10
            pos += 1
    seconds = _days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    if pos < length and (at[pos] == 43 or at[pos] == 45):
        zone_hour, zone_minute = -1, -1
        if length == pos + 6 and at[pos + 3] == 58:
            zone_hour, zone_minute = _number(at + pos + 1, 2), _number(at + pos + 4, 2)
        if not 0 <= zone_hour <= 23 or not 0 <= zone_minute <= 59:
            raise FormatError(f"{text!r} has no time zone")
        seconds += (zone_hour * 3600 + zone_minute * 60) * (-1 if at[pos] == 43 else 1)
    elif pos != length - 1 or at[pos] not in (90, 122):
        raise FormatError(f"{text!r} has no time zone")
    if not -9223372036 < seconds < 9223372036:
        return 0
    return seconds * 1000000000 + nanos


cdef bytes _pack_xattrs(object xattrs):
    """`u16 name length, u32 value length, name, value` for each, in the order of names."""
    cdef list parts = []
    for name in sorted(xattrs):
        value = xattrs[name]
        if not 0 < len(name) <= 255 or b"\0" in name or len(value) > 65536:
            raise FormatError(f"the extended attribute {name[:80]!r} is one that no file can have")
        parts.append(len(name).to_bytes(2, "little") + len(value).to_bytes(4, "little") + name + value)
    return b"".join(parts)


cdef class LayerIndex:
    """Records of one layer. add*() raise FormatError on what no tree can hold; seal() closes the table."""

    cdef uint64_t _put(self, bytes data) except *:
        cdef uint64_t off = self.heap.size()
        self.heap.append(<const char *>data, <size_t>len(data))
        return off

    cpdef add(self, bytes path, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t size, int64_t mtime_ns,
              uint32_t rdev, bytes link, xattrs):
        """A file system object; `mode` carries its type, `link` is a symlink's target as it stands.

        An entry named as a whiteout or opaque mark becomes one, whatever its type; reserved `.wh..wh.` names
        are dropped.
        """
        cdef Record record
        cdef bytes name
        assert not self.sealed
        if mode & S_IFMT not in (S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK):
            raise FormatError(f"{path!r} has no type")
        path = _cleaned(path)
        name = path[path.rfind(b"/") + 1:]
        if name.startswith(b".wh."):
            self._add_mark(path, name)
            return
        self.in_mark = False
        record.kind = KIND_NODE
        record.path_off, record.path_len = self._put(path), <uint32_t>len(path)
        record.mode, record.uid, record.gid, record.rdev = mode, uid, gid, rdev
        record.size, record.mtime_ns = size if mode & S_IFMT == S_IFREG else 0, mtime_ns
        record.chunk_first, record.chunk_count = <uint32_t>self.chunks.size(), 0
        record.link_off, record.link_len, record.xattr_off, record.xattr_len = 0, 0, 0, 0
        if not path and mode & S_IFMT != S_IFDIR:
            raise FormatError("the root is not a directory")
        if size > MAX_SIZE:
            raise FormatError(f"{path!r} has an impossible size of {size} bytes")
        if mode & S_IFMT == S_IFLNK:
            if not 0 < len(link) < 4096 or b"\0" in link:
                raise FormatError(f"{path!r} is a symbolic link to what no link can point to")
            record.link_off, record.link_len = self._put(link), <uint32_t>len(link)
            record.size = <uint64_t>len(link)
        if xattrs:
            packed = _pack_xattrs(xattrs)
            record.xattr_off, record.xattr_len = self._put(packed), <uint32_t>len(packed)
        self.records.push_back(record)

    def _add_mark(self, bytes path, bytes name):
        cdef Record record
        cdef bytes parent = path[:-len(name)].rstrip(b"/")
        self.in_mark = True
        record.size, record.mtime_ns, record.link_off, record.xattr_off = 0, 0, 0, 0
        record.link_len, record.xattr_len, record.mode, record.uid, record.gid = 0, 0, 0, 0, 0
        record.rdev, record.chunk_first, record.chunk_count = 0, 0, 0
        if name == b".wh..wh..opq":
            record.kind = KIND_OPAQUE
            path = parent
        elif name.startswith(b".wh..wh.") or name == b".wh.":
            return
        else:
            record.kind = KIND_WHITEOUT
            path = (parent + b"/" if parent else b"") + name[4:]
        record.path_off, record.path_len = self._put(path), <uint32_t>len(path)
        self.records.push_back(record)

    cpdef add_hardlink(self, bytes path, bytes target):
        """Another name for `target`, which this layer or one below holds."""
        cdef Record record
        path, target = _cleaned(path), _cleaned(target)
        if not path or not target:
            raise FormatError("the root is a hard link")
        if path[path.rfind(b"/") + 1:].startswith(b".wh."):
            self._add_mark(path, path[path.rfind(b"/") + 1:])
            return
        self.in_mark = False
        record.kind = KIND_HARDLINK
        record.path_off, record.path_len = self._put(path), <uint32_t>len(path)
        record.link_off, record.link_len = self._put(target), <uint32_t>len(target)
        record.size, record.mtime_ns, record.xattr_off, record.xattr_len = 0, 0, 0, 0
        record.mode, record.uid, record.gid, record.rdev = 0, 0, 0, 0
        record.chunk_first, record.chunk_count = 0, 0
        self.records.push_back(record)

    cpdef add_chunk(self, uint64_t file_off, uint64_t size, uint64_t blob_off, uint64_t inner_off, digest):
        """The next stretch of the entry added last, in ascending order; what no chunk covers reads as zeros."""
        cdef Chunk chunk
        cdef Record *owner
        cdef uint64_t end = 0
        cdef bytes raw
        if self.in_mark:
            return
        if self.records.empty():
            raise FormatError("a chunk comes before any file")
        owner = &self.records.back()
        if owner.kind != KIND_NODE or owner.mode & S_IFMT != S_IFREG:
            raise FormatError("a chunk belongs to what is no regular file")
        if owner.chunk_count:
            end = self.chunks.back().file_off + self.chunks.back().size
        if file_off < end or size == 0 or size > owner.size or file_off > owner.size - size:
            path = <bytes>self.heap.substr(owner.path_off, owner.path_len)
            raise FormatError(f"a chunk of {path!r} lies outside of the file or overlaps another")
        if max(blob_off, inner_off) > MAX_SIZE:
            raise FormatError("a chunk's offset is impossible")
        chunk.file_off, chunk.size, chunk.blob_off, chunk.inner_off = file_off, size, blob_off, inner_off
        chunk.blob_end, chunk.layer, chunk.inode, chunk.has_digest = 0, 0, 0, digest is not None
        memset(chunk.digest, 0, 32)
        if digest is not None:
            raw = digest
            if len(raw) != 32:
                raise FormatError("a chunk's digest is no SHA-256")
            memcpy(chunk.digest, <const char *>raw, 32)
        self.chunks.push_back(chunk)
        owner.chunk_count += 1

    def seal(self, uint64_t data_end):
        """Close the table: each chunk's member ends where the next one begins, the last one at `data_end`."""
        cdef vector[uint64_t] offsets
        cdef size_t i
        cdef uint64_t previous = 0
        cdef vector[uint64_t] starts
        for i in range(self.chunks.size()):
            offsets.push_back(self.chunks[i].blob_off)
        sort(offsets.begin(), offsets.end())
        for i in range(offsets.size()):
            if i == 0 or offsets[i] != previous:
                starts.push_back(offsets[i])
            previous = offsets[i]
        if not starts.empty() and starts.back() >= data_end:
            raise FormatError(f"a chunk begins at {starts.back()}, behind the layer's data")
        starts.push_back(data_end)
        for i in range(self.chunks.size()):
            self.chunks[i].blob_end = _next_start(starts, self.chunks[i].blob_off)
        self.records.shrink_to_fit()
        self.chunks.shrink_to_fit()
        self.sealed = True

    def clear(self):
        """Drop all records, once they have been merged: nothing else needs them."""
        vector[Record]().swap(self.records)
        vector[Chunk]().swap(self.chunks)
        string().swap(self.heap)

    @property
    def counts(self):
        """Records and chunks."""
        return self.records.size(), self.chunks.size()

    @property
    def file_bytes(self):
        """Sum of the sizes of regular files, in bytes."""
        cdef uint64_t total = 0
        cdef size_t i
        for i in range(self.records.size()):
            if self.records[i].mode & S_IFMT == S_IFREG:
                total += self.records[i].size
        return total

    @property
    def has_xattrs(self):
        """Whether any entry has an extended attribute."""
        cdef size_t i
        for i in range(self.records.size()):
            if self.records[i].xattr_len:
                return True
        return False


cdef uint64_t _next_start(vector[uint64_t] &starts, uint64_t off) noexcept nogil:
    """The first of the ascending `starts` above `off`; the caller knows that there is one."""
    cdef size_t low = 0, high = starts.size(), middle
    while low < high:
        middle = (low + high) // 2
        if starts[middle] > off:
            high = middle
        else:
            low = middle + 1
    return starts[low]
