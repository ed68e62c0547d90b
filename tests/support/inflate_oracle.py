"""gzip members of every shape, and what zlib says is in them."""

import struct
import zlib

FHCRC, FEXTRA, FNAME, FCOMMENT = 2, 4, 8, 16


def member(data: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, flags: int = 0) -> bytes:
    """One gzip member with the optional header fields that `flags` names."""
    header = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, flags, 0, 0, 255)
    header += struct.pack("<H", 5) + b"extra" if flags & FEXTRA else b""
    header += b"name\0" if flags & FNAME else b""
    header += b"comment\0" if flags & FCOMMENT else b""
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF) if flags & FHCRC else b""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    body = packer.compress(data) + packer.flush()
    return header + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def first_member(src: bytes) -> bytes | None:
    """What the member that `src` begins with holds; None where it is damaged or cut."""
    decoder = zlib.decompressobj(31)
    try:
        data = decoder.decompress(src)
    except zlib.error:
        return None
    return data if decoder.eof else None
