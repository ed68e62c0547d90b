"""A tar as a layer without a TOC: gzip, zstd or nothing around the very bytes that it had.

Pieces are compressed side by side: members of a few MiB one behind the other, which any gunzip or zstd reads.
"""

import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor

from crfs.convert.entries import TarEntry, damage_as_format_error
from crfs.convert.headers import is_plain, normalise, pack_header
from crfs.convert.lazylayer import ConvertedLayer
from crfs.convert.members import MemberWriter, Sink
from crfs.convert.packing import Pack
from crfs.errors import FormatError

_MEMBER = 4 << 20
_PIECE = 1 << 20
_BLOCK = 512


def write_plain(
    pieces: Iterable[bytes], out: Sink, media_type: str, pack: Pack, pool: Executor | None = None
) -> ConvertedLayer:
    """Write the tar that comes in `pieces`. FormatError unless it begins and ends as a tar does."""
    members = MemberWriter(out, pack, pool)
    head = b""
    for piece in pieces:
        if len(head) < _BLOCK:
            head += piece[:_BLOCK]
        for at in range(0, len(piece), _MEMBER):
            members.write(piece[at : at + _MEMBER])
            if members.inner_off >= _MEMBER:
                members.cut()
    size = members.uncompressed_size
    _check_head(head[:_BLOCK])
    if size % _BLOCK:
        raise FormatError("the tar is cut short: it is not made of whole blocks")
    members.flush()
    return ConvertedLayer(media_type, members.digest, members.size, members.diff_id, size)


def _check_head(head: bytes) -> None:
    if head.strip(b"\0") or len(head) < _BLOCK:
        with damage_as_format_error():
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")


def tar_pieces(entries: Iterable[TarEntry]) -> Iterator[bytes]:
    """The tar of entries, headers kept where they were raw."""
    for entry in entries:
        info = normalise(entry.info)
        yield entry.raw if entry.raw is not None and is_plain(entry.info) else pack_header(info)
        left = info.size
        if left:
            with damage_as_format_error(), entry.open_payload() as payload:
                while left:
                    piece = payload.read(min(left, _PIECE))
                    if not piece:
                        raise FormatError(f"{info.name!r} ends {left} bytes before its size")
                    left -= len(piece)
                    yield piece
            yield bytes(-info.size % _BLOCK)
    yield bytes(2 * _BLOCK)
