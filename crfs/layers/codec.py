"""How the members of a lazy layer are decompressed: gzip, or what another module makes a Codec of."""

from collections.abc import Callable

from msgspec import Struct

from crfs._native.index import Chunk
from crfs._native.inflate import check_sha256, inflate
from crfs.errors import FormatError


class Codec(Struct, frozen=True):
    """`decode(member, size, digest)` has inflate()'s contract; `ratio_max` is how much a byte can become."""

    decode: Callable[[memoryview, int, bytes | None], bytes]
    ratio_max: int


# deflate makes 258 bytes of two bits at the very best
GZIP = Codec(inflate, 1032)


def decode_member(member: list[Chunk], data: memoryview, codec: Codec = GZIP) -> list[bytes]:
    """The verified bytes of each chunk in one compressed member.

    FormatError where it does not decompress, DigestMismatch where a chunk is not what its digest names.
    """
    size = max(chunk.inner_off + chunk.size for chunk in member)
    if size > codec.ratio_max * len(data):
        raise FormatError("a compressed member can't be as large as its TOC says")
    if len(member) == 1 and member[0].inner_off == 0:
        return [codec.decode(data, size, member[0].digest)]
    whole = memoryview(codec.decode(data, size, None))
    pieces = [bytes(whole[chunk.inner_off : chunk.inner_off + chunk.size]) for chunk in member]
    for chunk, piece in zip(member, pieces, strict=True):
        if chunk.digest is not None:
            check_sha256(piece, chunk.digest)
    return pieces
