"""A layer's blob, whatever it is compressed with, into its tar. Any thread, one at a time."""

import zlib
from typing import IO, Protocol, cast

import zstandard

from crfs.errors import FormatError
from crfs.layers.layer import Format

# zstd also where a blob begins with a skippable frame, of which there are 16 kinds (RFC 8878, 3.1.2)
_MAGIC = (
    (b"\x1f\x8b", Format.TAR_GZIP),
    (b"\x28\xb5\x2f\xfd", Format.TAR_ZSTD),
    *((bytes([0x50 + kind]) + b"\x2a\x4d\x18", Format.TAR_ZSTD) for kind in range(16)),
)
_PIECE = 1 << 20


class Sink(Protocol):
    """What takes the tar, piece by piece: no more than a piece of it is ever in memory."""

    def write(self, part: bytes, /) -> int: ...


class _Decoder(Protocol):
    """What turns a compressed stream into its tar."""

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...


class _Plain:
    """No compression."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def feed(self, piece: bytes) -> None:
        self._sink.write(piece)

    def finish(self) -> None:
        return


class _Gunzip:
    """gzip members, one behind the other; zeros behind the last one are padding, as gzip(1) reads it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member = zlib.decompressobj(31)
        self._started = False

    def feed(self, piece: bytes) -> None:
        while piece:
            if self._member.eof:
                self._member, self._started = zlib.decompressobj(31), False
            if not self._started:
                piece = piece.lstrip(b"\0")
                self._started = bool(piece)
            # bounded, so that a bomb is written to disk rather than held in memory
            self._sink.write(self._member.decompress(piece, _PIECE))
            piece = self._member.unconsumed_tail or self._member.unused_data

    def finish(self) -> None:
        if self._started and not self._member.eof:
            raise FormatError("the gzip stream is cut short")


class _Unzstd:
    """zstd frames, one behind the other, skippable ones included."""

    def __init__(self, sink: Sink) -> None:
        self._stream = zstandard.ZstdDecompressor().stream_writer(cast(IO[bytes], sink), closefd=False)

    def feed(self, piece: bytes) -> None:
        self._stream.write(piece)

    def finish(self) -> None:
        """A cut frame is found out by the digests, and where there are none, by the tar that it leaves."""


_DECODERS: dict[Format, type[_Plain] | type[_Gunzip] | type[_Unzstd]] = {
    Format.TAR: _Plain,
    Format.TAR_GZIP: _Gunzip,
    Format.TAR_ZSTD: _Unzstd,
}


class Unpacker:
    """Takes a blob in pieces, and writes its tar to `sink`. FormatError for a stream that is damaged."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._decoder: _Decoder | None = None
        self._head = b""
        self.format = Format.TAR

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        if self._decoder is None:
            self._head += piece
            if len(self._head) < 4:
                return
            piece = self._head
        self._decode(piece)

    def flush(self) -> None:
        """Pass on what was too short to tell its format."""
        if self._decoder is None:
            self._decode(self._head)

    def finish(self) -> None:
        """There is no more; FormatError if there should be."""
        self.flush()
        assert self._decoder is not None
        self._decoder.finish()

    def _decode(self, piece: bytes) -> None:
        if self._decoder is None:
            self.format = next((kind for magic, kind in _MAGIC if self._head.startswith(magic)), Format.TAR)
            self._decoder = _DECODERS[self.format](self._sink)
        try:
            self._decoder.feed(piece)
        except (zlib.error, zstandard.ZstdError) as error:
            raise FormatError(f"the {self.format.value} stream is damaged: {error}") from error
