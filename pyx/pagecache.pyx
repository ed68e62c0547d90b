"""Verified bytes of the chunks that were used last, in pages of one slab that never grows.

Any thread; its own mutex is the innermost lock. Pages are pinned while they are copied, so that the copy needs
neither the mutex nor the GIL.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.operator cimport dereference
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from libcpp.mutex cimport mutex
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

Stats = namedtuple("Stats", "hits misses pages capacity")

cdef int32_t NONE = -1
# a page's key: the chunk's in the upper bits, the page's number in the lower 24
cdef int PAGE_BITS = 24


cdef struct Page:
    uint64_t key
    uint32_t size
    uint32_t pins
    int32_t older
    int32_t newer


cdef class PageCache:
    """At most `budget` bytes in pages of `page_size`; the page that was used longest ago makes room."""

    cdef char *slab
    cdef size_t page_size
    cdef vector[Page] pages
    cdef unordered_map[uint64_t, int32_t] table
    cdef int32_t oldest
    cdef int32_t newest
    cdef size_t used
    cdef uint64_t hits
    cdef uint64_t misses
    cdef mutex lock

    def __cinit__(self, size_t budget, size_t page_size=16384):
        if page_size == 0 or budget < page_size:
            raise ValueError("the budget holds no page")
        self.page_size = page_size
        # untouched pages of a large block cost no memory until they are used
        self.slab = <char *>malloc(budget // page_size * page_size)
        if self.slab == NULL:
            raise MemoryError
        self.pages.resize(budget // page_size)
        self.oldest, self.newest, self.used, self.hits, self.misses = NONE, NONE, 0, 0, 0

    def __dealloc__(self):
        free(self.slab)

    cdef void detach(self, int32_t at) noexcept nogil:
        cdef int32_t older = self.pages[at].older, newer = self.pages[at].newer
        if older == NONE:
            self.oldest = newer
        else:
            self.pages[older].newer = newer
        if newer == NONE:
            self.newest = older
        else:
            self.pages[newer].older = older

    cdef void attach(self, int32_t at) noexcept nogil:
        self.pages[at].older, self.pages[at].newer = self.newest, NONE
        if self.newest == NONE:
            self.oldest = at
        else:
            self.pages[self.newest].newer = at
        self.newest = at

    cdef int32_t find(self, uint64_t key) noexcept nogil:
        cdef unordered_map[uint64_t, int32_t].iterator it = self.table.find(key)
        return NONE if it == self.table.end() else dereference(it).second

    cdef int32_t take_locked(self) noexcept nogil:
        """A page to fill: a fresh one, or the oldest that nobody copies from; NONE if there is none."""
        cdef int32_t at = self.oldest
        if self.used < self.pages.size():
            self.used += 1
            return <int32_t>(self.used - 1)
        while at != NONE and self.pages[at].pins:
            at = self.pages[at].newer
        if at != NONE:
            self.detach(at)
            self.table.erase(self.pages[at].key)
        return at

    cdef void insert_page(self, uint64_t key, const char *data, size_t size) noexcept nogil:
        cdef int32_t at
        self.lock.lock()
        at = self.find(key)
        if at == NONE:
            at = self.take_locked()
            if at != NONE:
                self.pages[at].key, self.pages[at].size, self.pages[at].pins = key, <uint32_t>size, 0
                memcpy(self.slab + <size_t>at * self.page_size, data, size)
                self.table[key] = at
                self.attach(at)
        self.lock.unlock()

    cdef int check(self, uint64_t key) except -1:
        if key >> (64 - PAGE_BITS):
            raise OverflowError(f"{key} is no chunk's key")
        return 0

    def insert(self, uint64_t key, data):
        """Keep a chunk's bytes; one of more than half of the budget is not kept. Keys are below 2**40."""
        cdef Py_buffer view
        cdef size_t off = 0, size
        self.check(key)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if <size_t>view.len > min(self.pages.size() * self.page_size // 2, self.page_size << PAGE_BITS):
                return
            with nogil:
                while off < <size_t>view.len:
                    size = min(self.page_size, <size_t>view.len - off)
                    self.insert_page(key << PAGE_BITS | off // self.page_size, <const char *>view.buf + off, size)
                    off += size
        finally:
            PyBuffer_Release(&view)

    cdef bint copy_page(self, uint64_t key, size_t off, char *out, size_t size) noexcept nogil:
        """Copy [off, off + size) of a page; false if it is not here or shorter."""
        cdef int32_t at
        self.lock.lock()
        at = self.find(key)
        if at == NONE or self.pages[at].size < off + size:
            self.misses += 1
            self.lock.unlock()
            return False
        self.hits += 1
        self.pages[at].pins += 1
        self.detach(at)
        self.attach(at)
        self.lock.unlock()
        memcpy(out, self.slab + <size_t>at * self.page_size + off, size)
        self.lock.lock()
        self.pages[at].pins -= 1
        self.lock.unlock()
        return True

    def read(self, uint64_t key, size_t off, size_t size):
        """The chunk's bytes [off, off + size), or None unless all of them are here."""
        cdef size_t done = 0, within, step
        cdef bint found = True
        self.check(key)
        if off > self.page_size << PAGE_BITS or size > (self.page_size << PAGE_BITS) - off:
            return None
        result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        cdef char *out = PyBytes_AS_STRING(result)
        with nogil:
            while found and done < size:
                within = (off + done) % self.page_size
                step = min(self.page_size - within, size - done)
                found = self.copy_page(key << PAGE_BITS | (off + done) // self.page_size, within, out + done, step)
                done += step
        return result if found else None

    def stats(self):
        """Pages found and missed so far, pages in use, pages at most."""
        return Stats(self.hits, self.misses, self.used, self.pages.size())
