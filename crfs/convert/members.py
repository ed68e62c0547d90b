"""The compressed side of a gzip layer: one tar, written as gzip members that begin where the writer says."""

import hashlib
import zlib
from typing import BinaryIO


class MemberWriter:
    """Writes to `out`, and knows where it is. Deterministic: a member's header holds no name and no time."""

    def __init__(self, out: BinaryIO, level: int) -> None:
        self._out = out
        self._level = level
        self._deflate: zlib._Compress | None = None
        self._blob = hashlib.sha256()
        self._tar = hashlib.sha256()
        self._start = 0
        self._size = 0
        self._inner_off = 0
        self._uncompressed_size = 0

    @property
    def start(self) -> int:
        """The blob offset at which the open member begins, or the next one will."""
        return self._start

    @property
    def inner_off(self) -> int:
        """The bytes that have gone into the open member, uncompressed; 0 where none is open."""
        return self._inner_off

    @property
    def size(self) -> int:
        """Bytes of the blob so far; those of an open member count when they come out of the compressor."""
        return self._size

    @property
    def uncompressed_size(self) -> int:
        """Bytes of the tar so far."""
        return self._uncompressed_size

    @property
    def digest(self) -> str:
        """The digest of the blob so far."""
        return f"sha256:{self._blob.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """The digest of the tar so far."""
        return f"sha256:{self._tar.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Add to the tar, in the open member, or in a new one where none is."""
        if self._deflate is None:
            self._deflate = zlib.compressobj(self._level, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self._tar.update(data)
        self._inner_off += len(data)
        self._uncompressed_size += len(data)
        self._emit(self._deflate.compress(data))

    def cut(self) -> None:
        """End the open member, if there is one."""
        if self._deflate is not None:
            self._emit(self._deflate.flush())
        self._deflate = None
        self._start = self._size
        self._inner_off = 0

    def write_footer(self, footer: bytes) -> None:
        """End the open member, and add one that is compressed already and holds nothing."""
        self.cut()
        self._emit(footer)

    def _emit(self, data: bytes) -> None:
        self._blob.update(data)
        self._size += len(data)
        self._out.write(data)
