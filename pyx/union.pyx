"""Merge sealed layer indexes, bottom first, into one tree image (laid out in index.pxd).

The rules are those by which `umoci unpack` leaves files on disk: whiteouts and opaque marks hide only what lower
layers brought, a path's parents are resolved through symbolic links inside the root, and a directory meets a
directory by taking its attributes. Pure; holds the GIL only to make the errors and the result.
"""

from cython.operator cimport dereference
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libcpp.algorithm cimport sort
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

from crfs._native.index cimport Chunk, Dentry, Header, Inode, padded
from crfs._native.layerindex cimport (
    KIND_HARDLINK,
    KIND_OPAQUE,
    KIND_WHITEOUT,
    LayerIndex,
    Record,
)

from crfs.errors import FormatError

cdef uint32_t S_IFMT = 0o170000
cdef uint32_t S_IFDIR = 0o040000
cdef uint32_t S_IFREG = 0o100000
cdef uint32_t S_IFLNK = 0o120000
cdef int32_t NONE = -1
cdef int SYMLINKS_MAX = 40
cdef uint32_t NAME_LIMIT = 255
cdef uint32_t MAX_DEPTH = 2048

cdef enum Status:
    OK = 0
    DANGLING = 1
    LOOP = 2
    LINK_TO_DIRECTORY = 3
    NO_PATH = 4


# a name under construction; dead ones have node NONE. `waiting` is its place among the hard links that wait
cdef struct Name:
    const char *text
    uint32_t length
    int32_t parent
    int32_t node
    int32_t next
    int32_t waiting
    uint32_t stamp


# an object under construction; `record` is NULL for an implied directory, and a hard link's own for an object
# that is yet to come
cdef struct Node:
    const Record *record
    const LayerSlice *layer
    int32_t first
    int32_t dentry
    uint32_t nlink
    uint32_t depth


cdef struct LayerSlice:
    const Record *records
    const Chunk *chunks
    const char *heap
    size_t count
    uint32_t number


# a hard link whose target this layer had not brought at its turn, and the name that it got meanwhile
cdef struct Waiting:
    const Record *record
    int32_t name
    bint visited


# where a walk ended: the deepest directory that is there
cdef struct Walk:
    int32_t node
    int status


# one component of a path
cdef struct Step:
    const char *text
    uint32_t length


cdef uint32_t _parent_length(const char *path, uint32_t length) noexcept nogil:
    """How much of a clean path comes before its last name."""
    while length and path[length - 1] != 47:
        length -= 1
    return length


cdef uint32_t _mode(const Node *node) noexcept nogil:
    return node.record.mode if node.record else S_IFDIR | 0o755


cdef class _Merger:
    """The tree while layers are laid over it. Node 0 is the root; a name's stamp is the last layer that touched it."""

    cdef vector[Node] nodes
    cdef vector[Name] names
    cdef unordered_map[uint64_t, int32_t] table
    cdef vector[int32_t] table_next
    cdef uint32_t layer
    # of the walk in progress: what it did not find, and how many symbolic links it may yet follow
    cdef vector[Step] missing
    cdef int links_left
    cdef vector[Waiting] waiting
    # where make() ended, which it does again for what comes beside it; NONE once a name has gone since
    cdef int32_t made
    cdef const char *made_path
    cdef uint32_t made_length

    def __cinit__(self):
        self.nodes.push_back(Node(NULL, NULL, NONE, NONE, 1, 0))
        self.made = NONE

    cdef void expect(self, size_t records) noexcept nogil:
        """Have room for so many: a daemon's malloc makes it dear to grow (crfs.mount.memory)."""
        self.nodes.reserve(records + 1)
        self.names.reserve(records)
        self.table_next.reserve(records)
        self.table.reserve(records)

    # names of one hash are chained through table_next, which grows beside `names`
    cdef uint64_t hash(self, int32_t parent, const char *text, uint32_t length) noexcept nogil:
        cdef uint64_t value = <uint64_t>14695981039346656037ULL ^ (<uint64_t>parent * <uint64_t>0x9E3779B97F4A7C15ULL)
        cdef uint32_t i
        for i in range(length):
            value = (value ^ <uint8_t>text[i]) * <uint64_t>1099511628211ULL
        return value

    cdef int32_t bucket(self, uint64_t key) noexcept nogil:
        cdef unordered_map[uint64_t, int32_t].iterator it = self.table.find(key)
        return NONE if it == self.table.end() else dereference(it).second

    cdef int32_t find(self, int32_t parent, const char *text, uint32_t length) noexcept nogil:
        """The live name `text` in the directory `parent`, or NONE."""
        cdef int32_t at = self.bucket(self.hash(parent, text, length))
        while at != NONE:
            if (self.names[at].node != NONE and self.names[at].parent == parent
                    and self.names[at].length == length and memcmp(self.names[at].text, text, length) == 0):
                return at
            at = self.table_next[at]
        return NONE

    cdef int32_t link(self, int32_t parent, const char *text, uint32_t length, int32_t node) noexcept nogil:
        """Add a name for `node` to the directory `parent`, which has none such."""
        cdef int32_t at = <int32_t>self.names.size()
        cdef uint64_t key = self.hash(parent, text, length)
        self.table_next.push_back(self.bucket(key))
        self.table[key] = at
        self.names.push_back(Name(text, length, parent, node, self.nodes[parent].first, NONE, self.layer))
        self.nodes[parent].first = at
        self.nodes[node].nlink += 1
        self.nodes[node].dentry = at
        self.nodes[node].depth = self.nodes[parent].depth + 1
        return at

    cdef bint is_dir(self, int32_t node) noexcept nogil:
        return _mode(&self.nodes[node]) & S_IFMT == S_IFDIR

    cdef void kill(self, int32_t name) noexcept nogil:
        """Remove a name and, where it was a directory's, all below it."""
        cdef int32_t node = self.names[name].node, child
        if node == NONE:
            return
        self.made = NONE
        self.names[name].node = NONE
        self.nodes[node].nlink -= 1
        if self.is_dir(node):
            child = self.nodes[node].first
            while child != NONE:
                self.kill(child)
                child = self.names[child].next
            self.nodes[node].first = NONE

    cdef void hide(self, int32_t name) noexcept nogil:
        """What a whiteout does to a name: it goes, but for what this layer has brought itself."""
        if self.names[name].node == NONE:
            return
        if self.names[name].stamp < self.layer:
            self.kill(name)
        elif self.is_dir(self.names[name].node):
            self.hide_children(self.names[name].node)

    cdef void hide_children(self, int32_t node) noexcept nogil:
        cdef int32_t child = self.nodes[node].first
        while child != NONE:
            self.hide(child)
            child = self.names[child].next

    cdef int32_t add_node(self, const Record *record, const LayerSlice *layer) noexcept nogil:
        self.nodes.push_back(Node(record, layer, NONE, NONE, 0, 0))
        return <int32_t>self.nodes.size() - 1

    cdef Walk enter(self, int32_t parent, const char *text, uint32_t length) noexcept nogil:
        """One step down: the directory `text` in `parent`, through a symbolic link if it is one."""
        cdef int32_t name = self.find(parent, text, length) if self.missing.empty() else NONE, node
        if length > NAME_LIMIT:
            return Walk(NONE, NO_PATH)
        if name != NONE:
            node = self.names[name].node
            if self.is_dir(node):
                return Walk(node, OK)
            if _mode(&self.nodes[node]) & S_IFMT == S_IFLNK:
                if self.links_left == 0:
                    return Walk(NONE, LOOP)
                self.links_left -= 1
                return self.follow(parent, node)
        self.missing.push_back(Step(text, length))
        return Walk(parent, OK)

    cdef Walk follow(self, int32_t parent, int32_t link) noexcept nogil:
        cdef const Record *record = self.nodes[link].record
        cdef const char *target = self.nodes[link].layer.heap + record.link_off
        return self.descend(0 if target[0] == 47 else parent, target, record.link_len)

    cdef Walk descend(self, int32_t start, const char *path, uint32_t length) noexcept nogil:
        cdef uint32_t at, begin = 0, size
        cdef Walk step = Walk(start, OK)
        for at in range(length + 1):
            if at < length and path[at] != 47:
                continue
            size = at - begin
            if size == 2 and path[begin] == 46 and path[begin + 1] == 46:
                step.node = self.climb(step.node)
            elif size and not (size == 1 and path[begin] == 46):
                step = self.enter(step.node, path + begin, size)
                if step.status != OK:
                    return step
            begin = at + 1
        return step

    cdef int32_t climb(self, int32_t node) noexcept nogil:
        if not self.missing.empty():
            self.missing.pop_back()
            return node
        return self.names[self.nodes[node].dentry].parent if node else 0

    cdef Walk walk(self, const char *path, uint32_t length) noexcept nogil:
        """The deepest directory on the way to `path`, never above the root, and in `missing` the rest of the way.

        Symbolic links count before `..`, and what is missing is taken for directories.
        """
        self.missing.clear()
        self.links_left = SYMLINKS_MAX
        return self.descend(0, path, length)

    cdef Walk make(self, const char *path, uint32_t length) noexcept nogil:
        """The directory at `path`, touched with its parents; what is missing or no directory becomes an implied one."""
        cdef Walk at
        cdef int32_t name, node
        cdef size_t i
        if self.made != NONE and length == self.made_length and memcmp(path, self.made_path, length) == 0:
            return Walk(self.made, OK)
        at = self.walk(path, length)
        if at.status != OK:
            return at
        if self.nodes[at.node].depth + self.missing.size() >= MAX_DEPTH:
            return Walk(NONE, NO_PATH)
        self.touch(at.node)
        for i in range(self.missing.size()):
            name = self.find(at.node, self.missing[i].text, self.missing[i].length)
            if name != NONE:
                self.kill(name)
            node = self.add_node(NULL, NULL)
            self.link(at.node, self.missing[i].text, self.missing[i].length, node)
            at.node = node
        # what a symbolic link leads to can change otherwise, too
        self.made = at.node if self.links_left == SYMLINKS_MAX else NONE
        self.made_path, self.made_length = path, length
        return at

    cdef void touch(self, int32_t node) noexcept nogil:
        # the parents of what is touched are touched
        while node and self.names[self.nodes[node].dentry].stamp != self.layer:
            self.names[self.nodes[node].dentry].stamp = self.layer
            node = self.names[self.nodes[node].dentry].parent

    cdef int apply(self, const LayerSlice *layer, const Record *record) noexcept nogil:
        """Lay one record, which is no hard link, over the tree."""
        cdef const char *path = layer.heap + record.path_off
        cdef uint32_t length = record.path_len, base = _parent_length(path, length)
        cdef Walk parent
        if record.kind == KIND_OPAQUE:
            return self.hide_all(path, length)
        if record.kind == KIND_WHITEOUT:
            return self.hide_one(path, base, length)
        if length == 0:
            self.nodes[0].record, self.nodes[0].layer = record, layer
            return OK
        parent = self.make(path, base)
        if parent.status == OK:
            self.place(parent.node, path + base, length - base, record, layer)
        return parent.status

    cdef int hide_all(self, const char *path, uint32_t length) noexcept nogil:
        """What an opaque mark in the directory `path` does."""
        cdef Walk at = self.walk(path, length)
        if at.status == OK and self.missing.empty():
            self.hide_children(at.node)
        return at.status

    cdef int hide_one(self, const char *path, uint32_t base, uint32_t length) noexcept nogil:
        """What a whiteout of `path` does."""
        cdef Walk at = self.walk(path, base)
        cdef int32_t name
        if at.status == OK and self.missing.empty():
            name = self.find(at.node, path + base, length - base)
            if name != NONE:
                self.hide(name)
        return at.status

    cdef void place(self, int32_t parent, const char *text, uint32_t length, const Record *record,
                    const LayerSlice *layer) noexcept nogil:
        """Put a record's object at a name: a directory updates a directory, all else replaces."""
        cdef int32_t name = self.find(parent, text, length), node
        if name != NONE:
            node = self.names[name].node
            if record.mode & S_IFMT == S_IFDIR and self.is_dir(node):
                self.nodes[node].record, self.nodes[node].layer = record, layer
                self.names[name].stamp = self.layer
                return
            self.kill(name)
        node = self.add_node(record, layer)
        self.link(parent, text, length, node)

    cdef int32_t target(self, const LayerSlice *layer, const Record *record) noexcept nogil:
        """The name that a hard link points to as the tree stands, or NONE."""
        cdef const char *path = layer.heap + record.link_off
        cdef uint32_t base = _parent_length(path, record.link_len)
        cdef Walk at = self.walk(path, base)
        if at.status != OK or not self.missing.empty():
            return NONE
        return self.find(at.node, path + base, record.link_len - base)

    cdef bint is_settled(self, int32_t name) noexcept nogil:
        """Whether a hard link's target is one that this layer has brought, and no link that waits itself."""
        return (name != NONE and self.names[name].stamp == self.layer and self.names[name].waiting == NONE
                and not self.is_dir(self.names[name].node))

    cdef int lay_link(self, const LayerSlice *layer, const Record *record) noexcept nogil:
        """Give a hard link its name, so that what follows finds it there, even if its object is yet to come."""
        cdef const char *path = layer.heap + record.path_off
        cdef uint32_t base = _parent_length(path, record.path_len)
        cdef int32_t target = self.target(layer, record), node, name
        cdef bint settled = self.is_settled(target)
        if target == NONE or self.is_dir(self.names[target].node):
            node = self.add_node(record, layer)
        else:
            node = self.names[target].node
        cdef Walk parent = self.make(path, base)
        if parent.status != OK:
            return parent.status
        name = self.find(parent.node, path + base, record.path_len - base)
        if name != NONE:
            self.kill(name)
        name = self.link(parent.node, path + base, record.path_len - base, node)
        if not settled:
            self.names[name].waiting = <int32_t>self.waiting.size()
            self.waiting.push_back(Waiting(record, name, False))
        return OK

    cdef const Record *lay(self, const LayerSlice *layer, int *status) noexcept nogil:
        """Lay a whole layer over the tree. NULL, or the record that could not be, with the status that says why.

        A hard link may come before its target, so one whose target this layer has not brought (yet) waits for
        the rest, and then keeps the lower target that it saw at its turn if there is no other.
        """
        cdef size_t i
        self.layer = layer.number
        # what is touched is so by one layer
        self.made = NONE
        self.waiting.clear()
        for i in range(layer.count):
            if layer.records[i].kind == KIND_HARDLINK:
                status[0] = self.lay_link(layer, &layer.records[i])
            else:
                status[0] = self.apply(layer, &layer.records[i])
            if status[0] != OK:
                return &layer.records[i]
        return self.settle_all(layer, status)

    cdef const Record *settle_all(self, const LayerSlice *layer, int *status) noexcept nogil:
        """Settle the hard links that wait, each behind the one that it points to."""
        cdef vector[int32_t] chain
        cdef size_t i
        cdef int32_t at, target
        for i in range(self.waiting.size()):
            at = <int32_t>i
            while at != NONE and not self.waiting[at].visited:
                self.waiting[at].visited = True
                chain.push_back(at)
                target = self.target(layer, self.waiting[at].record)
                at = NONE if target == NONE else self.names[target].waiting
            while not chain.empty():
                status[0] = self.settle(layer, &self.waiting[chain.back()])
                if status[0] != OK:
                    return self.waiting[chain.back()].record
                chain.pop_back()
        return NULL

    cdef int settle(self, const LayerSlice *layer, const Waiting *link) noexcept nogil:
        cdef int32_t target, node = self.names[link.name].node
        if node == NONE:
            return OK
        target = self.target(layer, link.record)
        if self.is_settled(target):
            self.nodes[node].nlink -= 1
            node = self.names[target].node
            self.nodes[node].nlink += 1
            self.names[link.name].node = node
        elif self.nodes[node].record.kind == KIND_HARDLINK:
            return LINK_TO_DIRECTORY if target != NONE and self.is_dir(self.names[target].node) else DANGLING
        self.names[link.name].waiting = NONE
        return OK


cdef struct Sortable:
    const char *text
    uint32_t length
    int32_t node


cdef bint _by_name(const Sortable &a, const Sortable &b) noexcept nogil:
    cdef uint32_t common = a.length if a.length < b.length else b.length
    cdef int order = memcmp(a.text, b.text, common)
    return order < 0 or (order == 0 and a.length < b.length)


cdef struct OrderKey:
    uint32_t layer
    uint32_t chunk
    uint64_t blob_off
    uint64_t inner_off


cdef bint _by_place(const OrderKey &a, const OrderKey &b) noexcept nogil:
    if a.layer != b.layer:
        return a.layer < b.layer
    if a.blob_off != b.blob_off:
        return a.blob_off < b.blob_off
    if a.inner_off != b.inner_off:
        return a.inner_off < b.inner_off
    return a.chunk < b.chunk


cdef class _Writer:
    """Numbers a finished tree breadth first and writes its image."""

    cdef _Merger tree
    cdef vector[Inode] inodes
    cdef vector[Dentry] dentries
    cdef vector[Chunk] chunks
    cdef vector[uint32_t] order
    cdef vector[uint32_t] rank
    cdef string heap
    cdef vector[int32_t] numbers
    cdef vector[int32_t] queue

    def __cinit__(self, _Merger tree):
        self.tree = tree

    cdef void expect(self, size_t heap, size_t chunks) noexcept nogil:
        """Have room for what there is at most."""
        self.inodes.reserve(self.tree.nodes.size())
        self.dentries.reserve(self.tree.names.size())
        self.queue.reserve(self.tree.nodes.size())
        self.chunks.reserve(chunks)
        self.heap.reserve(heap)

    cdef void number(self) noexcept nogil:
        cdef size_t at = 0
        self.numbers.resize(self.tree.nodes.size(), NONE)
        self.queue.push_back(0)
        self.numbers[0] = 0
        self.add_inode(0, 0)
        while at < self.queue.size():
            if self.tree.is_dir(self.queue[at]):
                self.add_children(<uint32_t>at)
            at += 1

    cdef void add_children(self, uint32_t parent) noexcept nogil:
        cdef vector[Sortable] children
        cdef int32_t at = self.tree.nodes[self.queue[parent]].first
        cdef size_t i
        cdef uint32_t subdirs = 0
        while at != NONE:
            if self.tree.names[at].node != NONE:
                children.push_back(Sortable(self.tree.names[at].text, self.tree.names[at].length, self.tree.names[at].node))
            at = self.tree.names[at].next
        sort(children.begin(), children.end(), &_by_name)
        self.inodes[parent].first = <uint32_t>self.dentries.size()
        self.inodes[parent].count = <uint32_t>children.size()
        for i in range(children.size()):
            if self.numbers[children[i].node] == NONE:
                self.numbers[children[i].node] = <int32_t>self.queue.size()
                self.queue.push_back(children[i].node)
                self.add_inode(children[i].node, parent)
            subdirs += self.tree.is_dir(children[i].node)
            self.dentries.push_back(
                Dentry(<uint32_t>self.heap.size(), children[i].length, <uint32_t>self.numbers[children[i].node]))
            self.heap.append(children[i].text, children[i].length)
        self.inodes[parent].nlink = 2 + subdirs

    cdef void add_inode(self, int32_t number, uint32_t parent) noexcept nogil:
        cdef const Node *node = &self.tree.nodes[number]
        cdef const Record *record = node.record
        cdef Inode inode
        memset(&inode, 0, sizeof(Inode))
        inode.mode, inode.nlink, inode.parent = _mode(node), node.nlink, parent
        if record:
            inode.size, inode.mtime_ns = record.size, record.mtime_ns
            inode.uid, inode.gid, inode.rdev = record.uid, record.gid, record.rdev
            if record.xattr_len:
                inode.xattr_off, inode.xattr_len = <uint32_t>self.heap.size(), record.xattr_len
                self.heap.append(node.layer.heap + record.xattr_off, record.xattr_len)
            if inode.mode & S_IFMT == S_IFLNK:
                inode.first, inode.count = <uint32_t>self.heap.size(), record.link_len
                self.heap.append(node.layer.heap + record.link_off, record.link_len)
            elif inode.mode & S_IFMT == S_IFREG:
                self.add_chunks(&inode, record, node.layer)
        self.inodes.push_back(inode)

    cdef void add_chunks(self, Inode *inode, const Record *record, const LayerSlice *layer) noexcept nogil:
        cdef Chunk chunk
        cdef uint32_t i
        inode.first, inode.count = <uint32_t>self.chunks.size(), record.chunk_count
        for i in range(record.chunk_count):
            chunk = layer.chunks[record.chunk_first + i]
            chunk.layer, chunk.inode = <uint16_t>layer.number, <uint32_t>self.inodes.size()
            self.chunks.push_back(chunk)

    cdef void rank_chunks(self) noexcept nogil:
        """order: chunks as they lie in their blobs; rank: each chunk's place in that order."""
        cdef vector[OrderKey] keys
        cdef uint32_t i
        keys.reserve(self.chunks.size())
        for i in range(<uint32_t>self.chunks.size()):
            keys.push_back(OrderKey(self.chunks[i].layer, i, self.chunks[i].blob_off, self.chunks[i].inner_off))
        sort(keys.begin(), keys.end(), &_by_place)
        self.order.resize(keys.size())
        self.rank.resize(keys.size())
        for i in range(<uint32_t>keys.size()):
            self.order[i] = keys[i].chunk
            self.rank[keys[i].chunk] = i

    cdef void sum_up(self, Header *header) noexcept nogil:
        cdef size_t i
        for i in range(self.inodes.size()):
            if self.inodes[i].mode & S_IFMT == S_IFREG:
                header.file_bytes += self.inodes[i].size
            header.xattr_inodes += self.inodes[i].xattr_len > 0

    cdef bytes image(self):
        cdef Header header
        cdef uint64_t sizes[6]
        cdef const void *parts[6]
        cdef uint64_t total = padded(sizeof(Header)), off = total
        cdef int i
        if max(self.heap.size(), self.inodes.size(), self.dentries.size(), self.chunks.size()) >> 32:
            raise FormatError("the image has more names or files than an index can hold")
        memset(&header, 0, sizeof(Header))
        memcpy(header.magic, b"CRFSTREE", 8)
        header.version, header.inodes = 2, <uint32_t>self.inodes.size()
        header.dentries, header.chunks = <uint32_t>self.dentries.size(), <uint32_t>self.chunks.size()
        header.heap = self.heap.size()
        self.sum_up(&header)
        sizes[:] = [self.inodes.size() * sizeof(Inode), self.dentries.size() * sizeof(Dentry),
                    self.chunks.size() * sizeof(Chunk), self.order.size() * 4, self.rank.size() * 4, header.heap]
        parts[:] = [<const void *>self.inodes.data(), <const void *>self.dentries.data(),
                    <const void *>self.chunks.data(), <const void *>self.order.data(),
                    <const void *>self.rank.data(), <const void *>self.heap.data()]
        for i in range(6):
            total += padded(sizes[i])
        result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
        cdef char *out = PyBytes_AS_STRING(result)
        memset(out, 0, total)
        memcpy(out, &header, sizeof(Header))
        for i in range(6):
            if sizes[i]:
                memcpy(out + off, parts[i], sizes[i])
            off += padded(sizes[i])
        return result


cdef object _failure(const LayerSlice *layer, const Record *record, int status):
    path = <bytes>layer.heap[record.path_off:record.path_off + record.path_len]
    link = <bytes>layer.heap[record.link_off:record.link_off + record.link_len]
    if status == DANGLING:
        return FormatError(f"{path!r} is a hard link to {link!r}, which is not there")
    if status == LINK_TO_DIRECTORY:
        return FormatError(f"{path!r} is a hard link to the directory {link!r}")
    if status == NO_PATH:
        return FormatError(f"{path[:80]!r} lies where no path leads: too deep, or behind a name that no file can have")
    return FormatError(f"{path!r} lies behind too many symbolic links")


def merge(layers):
    """The tree image of `layers`, bottom first; FormatError names the entry that can't be merged."""
    cdef _Merger tree = _Merger()
    cdef vector[LayerSlice] slices
    cdef LayerIndex index
    cdef const Record *bad
    cdef int status = OK
    cdef size_t i, records = 0, heap = 0, chunks = 0
    cdef list held = list(layers)
    if len(held) > 0xFFFF:
        raise FormatError(f"an image of {len(held)} layers can't be indexed")
    for number, item in enumerate(held):
        index = <LayerIndex?>item
        slices.push_back(LayerSlice(index.records.data(), index.chunks.data(), index.heap.data(), index.records.size(),
                                    <uint32_t>number))
        records += index.records.size()
        heap += index.heap.size()
        chunks += index.chunks.size()
    tree.expect(records)
    for i in range(slices.size()):
        with nogil:
            bad = tree.lay(&slices[i], &status)
        if bad != NULL:
            raise _failure(&slices[i], bad, status)
    return _finish(_Writer(tree), heap, chunks)


cdef bytes _finish(_Writer writer, size_t heap, size_t chunks):
    with nogil:
        writer.expect(heap, chunks)
        writer.number()
        writer.rank_chunks()
    return writer.image()
