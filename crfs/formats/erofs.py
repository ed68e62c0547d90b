"""A merged tree as an EROFS image without data (Linux, fs/erofs/erofs_fs.h): bytes out, nothing read. Any thread.

Mounted under overlayfs with `metacopy=on`, each file with content is looked for by the name of its content
(`_native.contents`) in the data-only layers below.
"""

import struct
from collections.abc import Iterator

from crfs._native.contents import Contents
from crfs._native.erofs import Writer
from crfs._native.index import Tree

BLOCK = 4096
_MAGIC = 0xE0F5E1E2
_AT = 1024
# of a checksum; and that files may consist of chunks
_COMPAT_SB_CHKSUM, _INCOMPAT_CHUNKED_FILE = 1, 4
# magic, checksum, compat; block bits, extension slots, root; inodes, time, its ns; blocks, inodes' and xattrs' block;
# uuid, volume's name; incompat; nothing of compression, devices, prefixes
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sI44x")


def write_image(tree: Tree, contents: Contents, uuid: bytes) -> Iterator[bytes]:
    """The pieces of the image; the same tree and `uuid` (16 bytes) give the same bytes.

    FormatError where EROFS can't hold the tree. A character device 0:0 and xattrs `trusted.overlay.*` are escaped, so
    that an overlay shows the latter, and an overlay above that one takes both for what they are.
    """
    writer = Writer(tree, contents)
    first = bytearray(next(writer))
    first[_AT : _AT + _SUPERBLOCK.size] = _superblock(writer, tree.inodes, uuid, 0)
    checksum = _crc32c(first[_AT:BLOCK])
    first[_AT : _AT + _SUPERBLOCK.size] = _superblock(writer, tree.inodes, uuid, checksum)
    yield bytes(first)
    yield from writer


def _superblock(writer: Writer, inodes: int, uuid: bytes, checksum: int) -> bytes:
    seconds, nanoseconds = divmod(writer.epoch_ns, 10**9)
    return _SUPERBLOCK.pack(
        _MAGIC,
        checksum,
        _COMPAT_SB_CHKSUM,
        BLOCK.bit_length() - 1,
        0,
        writer.root_nid,
        inodes,
        seconds % (1 << 64),
        nanoseconds,
        writer.blocks,
        0,
        0,
        uuid,
        b"",
        _INCOMPAT_CHUNKED_FILE,
    )


def _crc32c_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC32C = [_crc32c_of_byte(byte) for byte in range(256)]


def _crc32c(data: bytes | bytearray) -> int:
    """CRC-32C as EROFS has it: begun with ones, not inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc
