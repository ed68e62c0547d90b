"""The entries of a stargz, eStargz or zstd:chunked TOC into a layer index: what the TOC says is checked here, one by one. Pure.

In C because a mount waits for it. Entries that say nothing unusual, which most are, are read from the JSON as they stand,
without the GIL, so that layers are indexed at the same time. What isn't plain is left to who can tell what it is, or
what is wrong with it: escapes, letters beyond ASCII, attributes, devices, whiteouts, whatever breaks a rule.
"""

import os
import stat
from binascii import unhexlify

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from libcpp.string cimport string
from libcpp.vector cimport vector

from crfs._native.index cimport Chunk
from crfs._native.layerindex cimport (
    IS_TIME,
    KIND_HARDLINK,
    KIND_NODE,
    LayerIndex,
    Record,
    parse_time,
    read_time,
)

from crfs.errors import FormatError

cdef dict TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}
cdef uint32_t S_IFDIR = 0o040000
cdef uint32_t S_IFREG = 0o100000
cdef uint32_t S_IFLNK = 0o120000
# numbers of fewer digits fit into what they are read into
cdef int MAX_DIGITS = 18
# of a TOC's JSON: what an entry takes at least, mostly, and how much of it are names
cdef Py_ssize_t ENTRY_SIZE = 200, NAMES_SHARE = 4
cdef bytes HEAD = b'{"version":1,"entries":['
cdef bytes TAIL = b"]}"


class LossyTocError(FormatError):
    """The TOC's JSON has lost names that are not UTF-8: only the tar itself still knows them."""


# a string of ASCII as it stands in the JSON, without its quotes
cdef struct Text:
    const unsigned char *at
    uint32_t length


# a plain entry; what the JSON does not have is zero
cdef struct Plain:
    Text name
    Text kind
    Text modtime
    Text link
    Text digest
    Text chunk_digest
    uint64_t size
    uint64_t offset
    uint64_t chunk_off
    uint64_t chunk_size
    uint64_t inner_off
    uint64_t mode
    uint64_t uid
    uint64_t gid


cdef inline const unsigned char *_skip_space(const unsigned char *at) noexcept nogil:
    while at[0] == 32 or 9 <= at[0] <= 10 or at[0] == 13:
        at += 1
    return at


cdef inline const unsigned char *_read_text(const unsigned char *at, Text *text) noexcept nogil:
    """Behind the string at `at`; NULL where it isn't plain. All JSON here ends with a NUL."""
    if at[0] != 34:
        return NULL
    at += 1
    text.at = at
    while at[0] != 34:
        if at[0] < 32 or at[0] > 126 or at[0] == 92:
            return NULL
        at += 1
    text.length = <uint32_t>(at - text.at)
    return at + 1


cdef inline const unsigned char *_read_number(const unsigned char *at, uint64_t *number) noexcept nogil:
    """Behind the number at `at`; NULL where it isn't plain."""
    cdef const unsigned char *begin = at
    number[0] = 0
    while 48 <= at[0] <= 57:
        number[0] = number[0] * 10 + (at[0] - 48)
        at += 1
    if at == begin or at - begin > MAX_DIGITS or (begin[0] == 48 and at - begin > 1):
        return NULL
    if at[0] == 46 or at[0] | 32 == 101:
        return NULL
    return at


cdef inline bint _is(const Text *text, const char *word, uint32_t length) noexcept nogil:
    return text.length == length and memcmp(text.at, word, length) == 0


cdef Text *_text_of(Plain *entry, const Text *key) noexcept nogil:
    if _is(key, b"name", 4):
        return &entry.name
    if _is(key, b"type", 4):
        return &entry.kind
    if _is(key, b"modtime", 7):
        return &entry.modtime
    if _is(key, b"digest", 6):
        return &entry.digest
    if _is(key, b"chunkDigest", 11):
        return &entry.chunk_digest
    if _is(key, b"linkName", 8):
        return &entry.link
    return NULL


cdef uint64_t *_number_of(Plain *entry, const Text *key) noexcept nogil:
    if _is(key, b"size", 4):
        return &entry.size
    if _is(key, b"mode", 4):
        return &entry.mode
    if _is(key, b"offset", 6):
        return &entry.offset
    if _is(key, b"uid", 3):
        return &entry.uid
    if _is(key, b"gid", 3):
        return &entry.gid
    if _is(key, b"chunkSize", 9):
        return &entry.chunk_size
    if _is(key, b"chunkOffset", 11):
        return &entry.chunk_off
    if _is(key, b"innerOffset", 11):
        return &entry.inner_off
    return NULL


cdef bint _is_ignored(const Text *key) noexcept nogil:
    """What some writers have in their entries, and nobody needs."""
    return _is(key, b"userName", 8) or _is(key, b"groupName", 9) or _is(key, b"NumLink", 7)


cdef const unsigned char *_read_value(const unsigned char *at, const Text *key, Plain *entry) noexcept nogil:
    cdef Text *text = _text_of(entry, key)
    cdef uint64_t *number = NULL
    cdef Text unread_text
    cdef uint64_t unread
    if text == NULL:
        number = _number_of(entry, key)
    if text == NULL and number == NULL:
        if not _is_ignored(key):
            return NULL
        text, number = &unread_text, &unread
    if text != NULL and at[0] == 34:
        return _read_text(at, text)
    if number == NULL:
        return NULL
    return _read_number(at, number)


cdef const unsigned char *_read_entry(const unsigned char *at, Plain *entry) noexcept nogil:
    """Behind the entry at `at`; NULL where it isn't plain."""
    cdef Text key
    memset(entry, 0, sizeof(Plain))
    if at[0] != 123:
        return NULL
    while True:
        at = _read_text(_skip_space(at + 1), &key)
        if at == NULL:
            return NULL
        at = _skip_space(at)
        if at[0] != 58:
            return NULL
        at = _read_value(_skip_space(at + 1), &key, entry)
        if at == NULL:
            return NULL
        at = _skip_space(at)
        if at[0] == 125:
            return at + 1
        if at[0] != 44:
            return NULL


cdef const unsigned char *_skip_entry(const unsigned char *at) noexcept nogil:
    """Behind the object at `at`, or NULL; whatever is in it."""
    cdef uint32_t depth = 0
    while at[0]:
        if at[0] == 34:
            at = _skip_string(at)
            if at == NULL:
                return NULL
            continue
        if at[0] == 123 or at[0] == 91:
            depth += 1
        elif at[0] == 125 or at[0] == 93:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return NULL


cdef const unsigned char *_skip_string(const unsigned char *at) noexcept nogil:
    at += 1
    while at[0] and at[0] != 34:
        at += 2 if at[0] == 92 and at[1] else 1
    if at[0] == 0:
        return NULL
    return at + 1


cdef const unsigned char *_match(const unsigned char *at, const char *tokens) noexcept nogil:
    """Behind `tokens` at `at`, where there may be space between them; NULL where there is something else."""
    cdef bint in_string = False
    while tokens[0]:
        if not in_string:
            at = _skip_space(at)
        if at[0] != <unsigned char>tokens[0]:
            return NULL
        in_string = in_string != (tokens[0] == 34)
        at += 1
        tokens += 1
    return _skip_space(at)


cdef inline int _hex_digit(unsigned char letter) noexcept nogil:
    if 48 <= letter <= 57:
        return letter - 48
    letter |= 32
    return letter - 87 if 97 <= letter <= 102 else -1


cdef bint _read_sha256(const Text *text, uint8_t *digest) noexcept nogil:
    """The 32 bytes of "sha256:..."; false where it isn't one."""
    cdef int i, high, low
    if text.length != 71 or memcmp(text.at, b"sha256:", 7):
        return False
    for i in range(32):
        high, low = _hex_digit(text.at[7 + 2 * i]), _hex_digit(text.at[8 + 2 * i])
        if high < 0 or low < 0:
            return False
        digest[i] = <uint8_t>(high << 4 | low)
    return True


cdef void _strip(Text *path) noexcept nogil:
    """Of a path, what most writers put around it."""
    if path.length > 1 and memcmp(path.at, b"./", 2) == 0:
        path.at += 2
        path.length -= 2
    elif path.length and path.at[0] == 47:
        path.at += 1
        path.length -= 1


cdef class _Filler:
    """Feeds entries to an index. A `chunk` belongs to the last `reg` before it, whatever its own name."""

    cdef LayerIndex index
    cdef object hidden
    cdef vector[string] hidden_names
    # of the last `reg`; -1 where there is none
    cdef int64_t size
    # how many of its bytes its chunks hold so far
    cdef int64_t covered
    # the last entry's that is no chunk: of a plain one, where it stands in the JSON
    cdef Text plain_name
    cdef str other_name
    cdef bint skipping
    # of the files that are not shown: where in the blob they begin
    cdef dict places

    def __cinit__(self, LayerIndex index, hidden):
        self.index, self.hidden, self.size, self.covered, self.other_name = index, hidden, -1, 0, ""
        self.skipping = False
        self.places = {}
        for name in hidden:
            self.hidden_names.push_back(<string>name.encode())

    @property
    def name(self):
        """Whose chunks come."""
        if self.plain_name.at == NULL:
            return self.other_name
        return (<const char *>self.plain_name.at)[:self.plain_name.length].decode()

    # plain entries

    cdef const unsigned char *take_all(self, const unsigned char *at) noexcept nogil:
        """Add plain entries from the one at `at` on; the first that isn't plain, what follows the last one, or NULL."""
        cdef Plain entry
        cdef const unsigned char *behind
        while at[0] == 123:
            behind = _read_entry(at, &entry)
            if behind == NULL or not self.take(&entry):
                return at
            at = _next_entry(behind)
            if at == NULL:
                return NULL
        return at

    cdef bint take(self, Plain *entry) noexcept nogil:
        """What add() does; false where it isn't plain what that is: then nothing has changed."""
        if _is(&entry.kind, b"chunk", 5):
            return self.size >= 0 and (self.skipping or self.take_chunk(entry, &entry.chunk_digest))
        if self.covered < self.size or not self.take_object(entry):
            return False
        self.skipping = False
        self.plain_name = entry.name
        self.size, self.covered = -1, 0
        if not _is(&entry.kind, b"reg", 3):
            return True
        self.size = <int64_t>entry.size
        return entry.size == 0 or self.take_chunk(entry, _only_digest(entry))

    cdef bint take_object(self, Plain *entry) noexcept nogil:
        cdef Record record
        cdef Text path = entry.name, link = entry.link
        memset(&record, 0, sizeof(Record))
        if _is(&entry.kind, b"hardlink", 8):
            record.kind = KIND_HARDLINK
            _strip(&link)
        elif not _read_attributes(entry, &record):
            return False
        _strip(&path)
        if self.is_hidden(&path):
            return False
        if path.length and path.at[path.length - 1] == 47:
            path.length -= 1
        record.path_len, record.link_len = path.length, link.length
        if _is(&entry.kind, b"reg", 3) and not self.is_plain_file(entry):
            return False
        return self.index.take(&record, <const char *>path.at, <const char *>link.at)

    cdef bint is_hidden(self, const Text *path) noexcept nogil:
        cdef size_t i
        for i in range(self.hidden_names.size()):
            if _is(path, self.hidden_names[i].data(), <uint32_t>self.hidden_names[i].size()):
                return True
        return False

    cdef bint is_plain_file(self, Plain *entry) noexcept nogil:
        """Whether take_chunk() would take what a file says of its first chunk."""
        cdef uint8_t digest[32]
        cdef const Text *text = _only_digest(entry)
        if entry.size == 0:
            return True
        if not entry.offset or entry.chunk_off or entry.chunk_size > entry.size:
            return False
        return text.length == 0 or _read_sha256(text, digest)

    cdef bint take_chunk(self, Plain *entry, const Text *digest) noexcept nogil:
        cdef Chunk chunk
        memset(&chunk, 0, sizeof(Chunk))
        if not entry.offset or <int64_t>entry.chunk_off != self.covered or self.covered >= self.size:
            return False
        # a size of 0 means: up to the file's end
        chunk.size = entry.chunk_size or <uint64_t>(self.size - self.covered)
        chunk.file_off, chunk.blob_off, chunk.inner_off = entry.chunk_off, entry.offset, entry.inner_off
        if digest.length:
            if not _read_sha256(digest, chunk.digest):
                return False
            chunk.has_digest = 1
        if not self.index.take_chunk(&chunk):
            return False
        self.covered += <int64_t>chunk.size
        return True

    # any entry

    cdef int add(self, entry) except -1:
        cdef str kind = entry.type, name = entry.name, link
        cdef bytes path
        if kind == "chunk":
            if self.size < 0:
                raise FormatError(f"the TOC has a chunk of {name!r} before any file")
            if not self.skipping:
                self.add_chunk(entry, entry.chunk_digest)
            return 0
        self.finish_file()
        size = entry.size
        self.skipping = name.removeprefix("./").removeprefix("/") in self.hidden
        self.size, self.covered, self.other_name = -1, 0, name
        self.plain_name.at = NULL
        if self.skipping and kind == "reg":
            # whatever it says of itself
            self.size = 0
            self.places[name.removeprefix("./").removeprefix("/")] = entry.offset
        if self.skipping:
            return 0
        link = entry.link_name
        if "\ufffd" in name or "\ufffd" in link:
            raise LossyTocError("the TOC has lost names that are not UTF-8")
        path = name.encode()
        if kind == "hardlink":
            self.index.add_hardlink(path, link.encode())
            return 0
        self.add_node(path, kind, link.encode(), entry)
        if kind == "reg":
            self.size = size
        if kind == "reg" and size:
            digest = entry.chunk_digest
            if not digest and entry.chunk_size in (0, size):
                # a file's digest is its only chunk's; a file of several chunks has none that fits one of them
                digest = entry.digest
            self.add_chunk(entry, digest)
        return 0

    cdef int finish_file(self) except -1:
        """To be called behind a file's last chunk: what none of them holds would read as zeros."""
        if self.covered < self.size:
            raise FormatError(f"the TOC has chunks for {self.covered} of the {self.size} bytes of {self.name!r}")
        return 0

    cdef int add_node(self, bytes path, str kind, bytes link, entry) except -1:
        cdef object rdev = 0, xattrs = None
        try:
            mode = TYPES[kind]
        except KeyError as error:
            raise FormatError(f"the TOC gives {entry.name!r} the unknown type {kind!r}") from error
        if kind == "char" or kind == "block":
            rdev = _device(entry)
        if entry.xattrs:
            xattrs = {key.encode(): value for key, value in entry.xattrs.items()}
        try:
            self.index.add(path, mode | entry.mode & 0o7777, entry.uid, entry.gid, entry.size,
                           parse_time(entry.modtime), rdev, link, xattrs)
        except OverflowError as error:
            raise FormatError(f"the TOC gives {entry.name!r} an impossible number: {error}") from error
        return 0

    cdef int add_chunk(self, entry, str digest) except -1:
        cdef str kind = entry.chunk_type
        offset, file_off, size = entry.offset, entry.chunk_offset, entry.chunk_size
        if kind and kind != "zeros":
            raise FormatError(f"the TOC gives a chunk of {self.name!r} the unknown type {kind!r}")
        if not offset and not kind:
            raise FormatError(f"the TOC gives {entry.name!r} a size but no offset")
        if file_off > self.covered:
            raise FormatError(f"the TOC has no chunk for the bytes of {self.name!r} from {self.covered} on")
        # a size of 0 means: up to the file's end
        size = size or self.size - file_off
        if file_off < self.covered or (kind and not 0 < size <= self.size - file_off):
            raise FormatError(f"a chunk of {self.name!r} lies outside of the file or overlaps another")
        if not kind:
            try:
                self.index.add_chunk(file_off, size, offset, entry.inner_offset, _sha256(digest))
            except OverflowError as error:
                raise FormatError(f"the TOC gives a chunk of {entry.name!r} an impossible place") from error
        # where there is a kind, no chunk covers it, and it reads as zeros
        self.covered = file_off + size
        return 0


cdef const Text *_only_digest(const Plain *entry) noexcept nogil:
    """A file's first chunk's: that of the file where there are no others."""
    if entry.chunk_digest.length or (entry.chunk_size and entry.chunk_size != entry.size):
        return &entry.chunk_digest
    return &entry.digest


cdef bint _read_attributes(const Plain *entry, Record *record) noexcept nogil:
    if _is(&entry.kind, b"reg", 3):
        record.mode = S_IFREG
    elif _is(&entry.kind, b"dir", 3):
        record.mode = S_IFDIR
    elif _is(&entry.kind, b"symlink", 7):
        record.mode = S_IFLNK
    else:
        return False
    if (entry.uid | entry.gid) >> 32:
        return False
    record.kind, record.size = KIND_NODE, entry.size
    record.mode |= <uint32_t>(entry.mode & 0o7777)
    record.uid, record.gid = <uint32_t>entry.uid, <uint32_t>entry.gid
    return read_time(entry.modtime.at, entry.modtime.length, &record.mtime_ns) == IS_TIME


cdef const unsigned char *_next_entry(const unsigned char *at) noexcept nogil:
    """What follows an entry's end: the next one, or that of all of them; NULL where it is neither."""
    at = _skip_space(at)
    if at[0] == 44:
        at = _skip_space(at + 1)
        if at[0] == 123:
            return at
    elif at[0] == 93:
        return at
    return NULL


cdef object _device(entry):
    try:
        return os.makedev(entry.dev_major, entry.dev_minor)
    except OverflowError as error:
        raise FormatError(f"the TOC gives {entry.name!r} an impossible device number") from error


cdef object _sha256(str digest):
    """The 32 bytes of "sha256:..."; None where there is no digest."""
    if not digest:
        return None
    if len(digest) == 71 and digest.startswith("sha256:"):
        try:
            return unhexlify(digest[7:])
        except ValueError:
            pass
    raise FormatError(f"the TOC has a digest that is no SHA-256: {digest[:80]!r}")


def fill_index(LayerIndex index, bytes json, iter_toc, hidden):
    """Add the entries of a TOC, in its order, but for the files that are called as one in `hidden`.

    `iter_toc` gives those of any TOC's JSON; FormatError from there, too.
    FormatError where the TOC breaks a rule of docs/estargz.md or speaks of what no tree can hold;
    LossyTocError where it names a file that its producer could not spell. Returns where the hidden files begin.
    """
    cdef _Filler filler = _Filler(index, hidden)
    index.expect(len(json) // ENTRY_SIZE, len(json) // NAMES_SHARE)
    if not _fill(filler, json, iter_toc):
        # keys in another order, or more of them: nothing of what has been added counts
        index.clear()
        filler = _Filler(index, hidden)
        for entry in iter_toc(json):
            filler.add(entry)
    filler.finish_file()
    return filler.places


cdef bint _fill(_Filler filler, bytes json, iter_toc) except -1:
    """Whether this was all of a TOC that has nothing but its version and entries."""
    cdef const unsigned char *begin = json
    cdef const unsigned char *at = _match(begin, HEAD)
    cdef const unsigned char *behind
    while at != NULL and at[0] != 93:
        with nogil:
            at = filler.take_all(at)
        if at == NULL or at[0] == 93:
            break
        if at[0] != 123:
            return False
        behind = _skip_entry(at)
        if behind == NULL:
            return False
        for entry in iter_toc(HEAD + json[at - begin:behind - begin] + TAIL):
            filler.add(entry)
        at = _next_entry(behind)
    if at != NULL:
        at = _match(at, TAIL)
    return at != NULL and at - begin == len(json)
