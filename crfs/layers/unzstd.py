"""The members of a zstd:chunked layer: frames, decompressed by python-zstandard without the GIL. Any thread.

A module of its own, because its package takes a while to load, and few images need it.
"""

import threading

import zstandard

from crfs._native.inflate import check_sha256
from crfs.errors import FormatError
from crfs.formats.toc import MAX_TOC_SIZE
from crfs.layers.codec import Codec

# a frame may hold this much more than its chunk before it is streamed instead
_SLACK = 1 << 20
_local = threading.local()


def unzstd(src: memoryview | bytes, size: int, digest: bytes | None = None) -> bytes:
    """The first `size` bytes of the zstd frame that `src` begins with; `digest` is their SHA-256 (32 bytes).

    FormatError if the frame is damaged or shorter, DigestMismatch if the bytes are not those that `digest`
    names. What lies behind them may be damaged.
    """
    try:
        data = _decompress(src, size)
    except zstandard.ZstdError as error:
        raise FormatError(f"a zstd frame is damaged: {error}") from error
    if len(data) < size:
        raise FormatError(f"a zstd frame ends after {len(data)} of {size} bytes")
    if digest is not None:
        check_sha256(data, digest)
    return data


def unpack_json(packed: bytes, size: int) -> bytes:
    """A TOC's JSON, which must be exactly `size` bytes long; FormatError otherwise."""
    if size > MAX_TOC_SIZE:
        raise FormatError(f"the TOC inflates to more than {MAX_TOC_SIZE} bytes")
    try:
        json = _decompressor().stream_reader(packed).read(size + 1)
    except zstandard.ZstdError as error:
        raise FormatError(f"the TOC's zstd frame is damaged: {error}") from error
    if len(json) != size:
        raise FormatError(f"the TOC does not inflate to the {size} bytes that it should have")
    return json


def _decompress(src: memoryview | bytes, size: int) -> bytes:
    """At most `size` bytes; never allocates much more than that."""
    declared = zstandard.frame_content_size(src)
    if size <= declared <= size + _SLACK:
        data = _decompressor().decompress(src)
        return data if len(data) == size else data[:size]
    return _decompressor().stream_reader(src).read(size)


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's own: one may not be used by two at a time."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


# a block of 128 KiB may be one byte behind a header of three (RFC 8878, 3.1.1.2)
ZSTD = Codec(unzstd, 1 << 15)
