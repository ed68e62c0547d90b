"""The entries of one layer in the order of its tar, in flat records: what a TOC or tar headers are read into.

No rule of merging lives here, only what each entry says; union reads the records. Filled by one thread,
then sealed and immutable.
"""

from libc.string cimport memchr, memcmp, memcpy, memset
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
# what an int64 of ns holds
cdef int64_t SECONDS_LIMIT = 9223372036


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
    """Whether clean_path() would return `path` as it is, a whiteout's longer name left aside."""
    cdef Py_ssize_t at, start = 0, size
    cdef uint32_t depth = 0
    for at in range(length + 1):
        if at == length or path[at] == 47:
            size = at - start
            if size == 0 or size > NAME_LIMIT:
                return length == 0
            if path[start] == 46 and (size == 1 or (size == 2 and path[start + 1] == 46)):
                return False
            start = at + 1
            depth += 1
        elif path[at] == 0:
            return False
    return depth <= MAX_DEPTH


cdef inline bint _is_mark(const unsigned char *path, Py_ssize_t length) noexcept nogil:
    """Whether a clean path's last name is a whiteout's, or one that only its reader needs."""
    cdef Py_ssize_t start = length
    while start and path[start - 1] != 47:
        start -= 1
    return length - start >= MARK_LENGTH and memcmp(path + start, b".wh.", MARK_LENGTH) == 0


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
    cdef int64_t ns = 0
    cdef int status = read_time(raw, len(raw), &ns)
    if status == NO_TIME:
        raise FormatError(f"{text!r} is no time")
    if status == NO_ZONE:
        raise FormatError(f"{text!r} has no time zone")
    return ns


cdef int read_time(const unsigned char *at, Py_ssize_t length, int64_t *ns) noexcept nogil:
    """parse_time() of text that something other than a digit follows: IS_TIME, or what it is instead."""
    cdef int year, month, day, hour, minute, second, zone_hour, zone_minute
    cdef int64_t nanos = 0, scale = 100000000, seconds
    cdef Py_ssize_t pos = 19
    ns[0] = 0
    if length == 0:
        return IS_TIME
    if length < 20:
        return NO_TIME
    year, month, day = _number(at, 4), _number(at + 5, 2), _number(at + 8, 2)
    hour, minute, second = _number(at + 11, 2), _number(at + 14, 2), _number(at + 17, 2)
    if min(year, month, day, hour, minute, second) < 0 or not 1 <= month <= 12:
        return NO_TIME
    if not 1 <= day <= _month_days(year, month) or hour > 23 or minute > 59 or second > 60:
        return NO_TIME
    if at[4] != 45 or at[7] != 45 or at[10] not in (84, 116) or at[13] != 58 or at[16] != 58:
        return NO_TIME
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
            return NO_ZONE
        seconds += (zone_hour * 3600 + zone_minute * 60) * (-1 if at[pos] == 43 else 1)
    elif pos != length - 1 or at[pos] not in (90, 122):
        return NO_ZONE
    if -SECONDS_LIMIT < seconds < SECONDS_LIMIT:
        ns[0] = seconds * 1000000000 + nanos
    return IS_TIME


cdef bytes _pack_xattrs(object xattrs):
    """`u16 name length, u32 value length, name, value` for each, in the order of names."""
    cdef list parts = []
    for name in sorted(xattrs):
        value = xattrs[name]
        if not 0 < len(name) <= 255 or b"\0" in name or len(value) > 65536:
            raise FormatError(f"the extended attribute {name[:80]!r} is one that no file can have")
        parts.append(len(name).to_bytes(2, "little") + len(value).to_bytes(4, "little") + name + value)
    return b"".join(parts)


cdef object _refusal(bytes path, uint32_t mode, uint64_t size):
    """Why LayerIndex.take() does not take an object."""
    if not path and mode & S_IFMT != S_IFDIR:
        return FormatError("the root is not a directory")
    if size > MAX_SIZE:
        return FormatError(f"{path!r} has an impossible size of {size} bytes")
    return FormatError(f"{path!r} is a symbolic link to what no link can point to")


cdef class LayerIndex:
    """Records of one layer. add*() raise FormatError on what no tree can hold; seal() closes the table."""

    cdef void expect(self, size_t records, size_t heap) noexcept nogil:
        """Have room for about so many files, and bytes of names: it costs nothing until it is used."""
        self.records.reserve(records)
        self.chunks.reserve(records)
        self.heap.reserve(heap)

    cdef uint64_t _put(self, const char *data, size_t size) noexcept nogil:
        cdef uint64_t off = self.heap.size()
        self.heap.append(data, size)
        return off

    cdef bint take(self, Record *record, const char *path, const char *link) noexcept nogil:
        """Add an object without attributes or a hard link, where nothing is to be said against it.

        `record` has all but the places of `path` and `link`. False where only add() or add_hardlink() can tell what
        becomes of it: then nothing was added.
        """
        cdef uint32_t kind = record.mode & S_IFMT
        if not _is_clean(<const unsigned char *>path, record.path_len):
            return False
        if _is_mark(<const unsigned char *>path, record.path_len):
            return False
        if record.kind == KIND_HARDLINK:
            if not record.path_len or not record.link_len:
                return False
            if not _is_clean(<const unsigned char *>link, record.link_len):
                return False
        elif (record.path_len == 0 and kind != S_IFDIR) or record.size > MAX_SIZE:
            return False
        elif kind == S_IFLNK and (not 0 < record.link_len < 4096 or memchr(link, 0, record.link_len) != NULL):
            return False
        self.in_mark = False
        self._keep(record, path, link)
        return True

    cdef void _keep(self, Record *record, const char *path, const char *link) noexcept nogil:
        cdef uint32_t kind = record.mode & S_IFMT
        record.path_off = self._put(path, record.path_len)
        record.chunk_first, record.chunk_count = <uint32_t>self.chunks.size(), 0
        record.xattr_off, record.xattr_len, record.link_off = 0, 0, 0
        if record.kind == KIND_HARDLINK or kind == S_IFLNK:
            record.link_off = self._put(link, record.link_len)
        else:
            record.link_len = 0
        if record.kind == KIND_NODE and kind != S_IFREG:
            record.size = record.link_len
        self.records.push_back(record[0])

    cpdef add(self, bytes path, uint32_t mode, uint32_t uid, uint32_t gid, uint64_t size, int64_t mtime_ns,
              uint32_t rdev, bytes link, xattrs):
        """A file system object; `mode` carries its type, `link` is a symlink's target as it stands.

        An entry named as a whiteout or opaque mark becomes one, whatever its type; reserved `.wh..wh.` names
        are dropped.
        """
        cdef Record record
        cdef Record *added
        cdef bytes packed = b""
        assert not self.sealed
        if mode & S_IFMT not in (S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK):
            raise FormatError(f"{path!r} has no type")
        path = _cleaned(path)
        if _is_mark(path, len(path)):
            self._add_mark(path)
            return
        if xattrs:
            packed = _pack_xattrs(xattrs)
        memset(&record, 0, sizeof(Record))
        record.kind, record.mode, record.uid, record.gid, record.rdev = KIND_NODE, mode, uid, gid, rdev
        record.path_len, record.link_len = <uint32_t>len(path), <uint32_t>len(link)
        record.size, record.mtime_ns = size, mtime_ns
        if not self.take(&record, path, link):
            raise _refusal(path, mode, size)
        if packed:
            added = &self.records.back()
            added.xattr_off, added.xattr_len = self._put(packed, len(packed)), <uint32_t>len(packed)

    cdef int _add_mark(self, bytes path) except -1:
        cdef Record record
        cdef bytes name = path[path.rfind(b"/") + 1:]
        cdef bytes parent = path[:-len(name)].rstrip(b"/")
        self.in_mark = True
        memset(&record, 0, sizeof(Record))
        if name == b".wh..wh..opq":
            record.kind = KIND_OPAQUE
            path = parent
        elif name.startswith(b".wh..wh.") or name == b".wh.":
            return 0
        else:
            record.kind = KIND_WHITEOUT
            path = (parent + b"/" if parent else b"") + name[4:]
        record.path_off, record.path_len = self._put(path, len(path)), <uint32_t>len(path)
        self.records.push_back(record)
        return 0

    cpdef add_hardlink(self, bytes path, bytes target):
        """Another name for `target`, which this layer or one below holds."""
        cdef Record record
        path, target = _cleaned(path), _cleaned(target)
        if not path or not target:
            raise FormatError("the root is a hard link")
        if _is_mark(path, len(path)):
            self._add_mark(path)
            return
        memset(&record, 0, sizeof(Record))
        record.kind = KIND_HARDLINK
        record.path_len, record.link_len = <uint32_t>len(path), <uint32_t>len(target)
        self.in_mark = False
        self._keep(&record, path, target)

    cdef bint take_chunk(self, Chunk *chunk) noexcept nogil:
        """Add the next stretch of the entry added last, where nothing is to be said against it; as take() does."""
        cdef Record *owner
        cdef uint64_t end = 0
        if self.in_mark or self.records.empty():
            return False
        owner = &self.records.back()
        if owner.kind != KIND_NODE or owner.mode & S_IFMT != S_IFREG:
            return False
        if owner.chunk_count:
            end = self.chunks.back().file_off + self.chunks.back().size
        if chunk.file_off < end or chunk.size == 0:
            return False
        if chunk.size > owner.size or chunk.file_off > owner.size - chunk.size:
            return False
        if max(chunk.blob_off, chunk.inner_off) > MAX_SIZE:
            return False
        self.chunks.push_back(chunk[0])
        owner.chunk_count += 1
        return True

    cpdef add_chunk(self, uint64_t file_off, uint64_t size, uint64_t blob_off, uint64_t inner_off, digest):
        """The next stretch of the entry added last, in ascending order; what no chunk covers reads as zeros."""
        cdef Chunk chunk
        cdef bytes raw
        if self.in_mark:
            return
        memset(&chunk, 0, sizeof(Chunk))
        chunk.file_off, chunk.size, chunk.blob_off, chunk.inner_off = file_off, size, blob_off, inner_off
        if digest is not None:
            raw = digest
            if len(raw) != 32:
                raise FormatError("a chunk's digest is no SHA-256")
            chunk.has_digest = 1
            memcpy(chunk.digest, <const char *>raw, 32)
        if not self.take_chunk(&chunk):
            raise self._chunk_refusal(&chunk)

    cdef object _chunk_refusal(self, const Chunk *chunk):
        """Why take_chunk() did not take it."""
        cdef const Record *owner
        if self.records.empty():
            return FormatError("a chunk comes before any file")
        owner = &self.records.back()
        if owner.kind != KIND_NODE or owner.mode & S_IFMT != S_IFREG:
            return FormatError("a chunk belongs to what is no regular file")
        if max(chunk.blob_off, chunk.inner_off) > MAX_SIZE:
            return FormatError("a chunk's offset is impossible")
        path = <bytes>self.heap.substr(owner.path_off, owner.path_len)
        return FormatError(f"a chunk of {path!r} lies outside of the file or overlaps another")

    def seal(self, uint64_t data_end):
        """Close the table: each chunk's member ends where the next one begins, the last one at `data_end`."""
        cdef uint64_t last
        with nogil:
            last = self._end_members(data_end)
        if last >= data_end and not self.chunks.empty():
            raise FormatError(f"a chunk begins at {last}, behind the layer's data")
        self.sealed = True

    cdef uint64_t _end_members(self, uint64_t data_end) noexcept nogil:
        """Where the last member begins."""
        cdef vector[uint64_t] starts
        cdef size_t i
        cdef uint64_t last
        starts.reserve(self.chunks.size() + 1)
        for i in range(self.chunks.size()):
            starts.push_back(self.chunks[i].blob_off)
        sort(starts.begin(), starts.end())
        last = 0 if starts.empty() else starts.back()
        if last >= data_end:
            return last
        starts.push_back(data_end)
        for i in range(self.chunks.size()):
            self.chunks[i].blob_end = _next_start(starts, self.chunks[i].blob_off)
        return last

    def clear(self):
        """Drop all records."""
        vector[Record]().swap(self.records)
        vector[Chunk]().swap(self.chunks)
        string().swap(self.heap)
        self.in_mark = False

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
