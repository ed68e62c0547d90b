"""Decompress one gzip member into a buffer of the size that its index declares, and check its SHA-256.

libdeflate does the work; the GIL is dropped once for both. Any thread.
"""

import zlib

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp

from crfs.errors import DigestMismatch, FormatError


cdef extern from "libdeflate.h" nogil:
    ctypedef struct libdeflate_decompressor:
        pass
    cdef enum libdeflate_result:
        LIBDEFLATE_SUCCESS
        LIBDEFLATE_INSUFFICIENT_SPACE
    libdeflate_decompressor *libdeflate_alloc_decompressor()
    void libdeflate_free_decompressor(libdeflate_decompressor *)
    libdeflate_result libdeflate_gzip_decompress_ex(
        libdeflate_decompressor *, const void *, size_t, void *, size_t, size_t *, size_t *)


cdef extern from "openssl/sha.h" nogil:
    unsigned char *SHA256(const unsigned char *, size_t, unsigned char *)


# a member may hold this much more than its chunk (padding, the next tar headers) before it is streamed instead
cdef size_t SLACK = 1 << 20
cdef size_t PIECE = 1 << 18


cdef int _decompress(const void *src, size_t src_size, void *dst, size_t capacity, size_t *written) noexcept nogil:
    """A libdeflate_result; -1 where there is no memory. What follows the first member in `src` is not read."""
    cdef libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor()
    cdef size_t used
    cdef int result
    if decompressor == NULL:
        return -1
    result = <int>libdeflate_gzip_decompress_ex(decompressor, src, src_size, dst, capacity, &used, written)
    libdeflate_free_decompressor(decompressor)
    return result


cdef bint _matches(const void *data, size_t size, const char *digest) noexcept nogil:
    cdef unsigned char computed[32]
    SHA256(<const unsigned char *>data, size, computed)
    return memcmp(computed, digest, 32) == 0


cdef bytes _stream(const Py_buffer *src, size_t size, bint to_end):
    """The slow way, for a member whose size is far from what its trailer or index suggests.

    With `to_end`, the rest of the member is read, a piece at a time, for its checksum.
    """
    decoder = zlib.decompressobj(31)
    try:
        # a limit of 0 would mean none
        data = decoder.decompress(<bytes>(<const char *>src.buf)[:src.len], size if size else 1)
        while to_end and not decoder.eof:
            if not decoder.decompress(decoder.unconsumed_tail, PIECE) and not decoder.eof:
                raise FormatError("a compressed member is cut short")
    except zlib.error as error:
        raise FormatError(f"a compressed member is damaged: {error}") from error
    if <size_t>len(data) < size:
        raise FormatError(f"a compressed member ends after {len(data)} of {size} bytes")
    return data


cdef bytes _inflate(const Py_buffer *src, size_t size, const char *digest):
    cdef const unsigned char *tail = <const unsigned char *>src.buf + src.len - 4
    cdef size_t capacity = size, written = 0
    cdef int status
    cdef bint matches = True
    if src.len < 18:
        raise FormatError("a compressed member is cut short")
    # the trailer's ISIZE, where the member is the last one in src; its excess over `size` is dropped below
    capacity = tail[0] | tail[1] << 8 | tail[2] << 16 | <size_t>tail[3] << 24
    if not size <= capacity <= size + SLACK:
        capacity = size
    result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>capacity)
    cdef char *out = PyBytes_AS_STRING(result)
    with nogil:
        status = _decompress(src.buf, <size_t>src.len, out, capacity, &written)
        if status == LIBDEFLATE_SUCCESS and written >= size and digest != NULL:
            matches = _matches(out, size, digest)
    if status == -1:
        raise MemoryError
    if status == LIBDEFLATE_INSUFFICIENT_SPACE:
        result = _stream(src, size, digest == NULL)
        if digest != NULL:
            out = PyBytes_AS_STRING(result)
            with nogil:
                matches = _matches(out, size, digest)
    elif status != LIBDEFLATE_SUCCESS:
        raise FormatError("a compressed member is damaged")
    elif written < size:
        raise FormatError(f"a compressed member ends after {written} of {size} bytes")
    if not matches:
        raise DigestMismatch("decompressed bytes do not match their digest")
    return result if <size_t>len(result) == size else result[:size]


def inflate(src, size_t size, bytes digest=None):
    """The first `size` bytes of the gzip member that `src` begins with; `digest` is their SHA-256 (32 bytes).

    Never more than `size` plus 1 MiB is allocated. FormatError if the member is damaged or shorter,
    DigestMismatch if the bytes are not those that `digest` names. Without one, the member is read to its end,
    where its own checksum is; with one, what lies behind the bytes may be damaged.
    """
    cdef Py_buffer view
    cdef const char *expected = NULL
    if digest is not None:
        if len(digest) != 32:
            raise ValueError("a SHA-256 has 32 bytes")
        expected = digest
    PyObject_GetBuffer(src, &view, PyBUF_SIMPLE)
    try:
        return _inflate(&view, size, expected)
    finally:
        PyBuffer_Release(&view)


def check_sha256(data, bytes digest):
    """DigestMismatch unless `digest` (32 bytes) is the SHA-256 of `data`."""
    cdef Py_buffer view
    cdef bint matches
    cdef const char *expected = digest
    if len(digest) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        matches = _matches(view.buf, <size_t>view.len, expected)
    PyBuffer_Release(&view)
    if not matches:
        raise DigestMismatch("bytes do not match their digest")
