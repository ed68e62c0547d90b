"""Tar entries into a layer that can be read lazily: eStargz, its external-TOC variant, or stargz.

Follows stargz-snapshotter's docs/estargz.md. The blob is at the same time a plain tar.gz: gzip members one
after the other, each beginning where a reader may want to begin. Streaming: bounded memory, but for the TOC.
The same entries and options give the same bytes.
"""

import hashlib
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import IO, BinaryIO

import msgspec

from crfs.convert.entries import TarEntry, damage_as_format_error
from crfs.convert.headers import OwnerNames, WrittenEntry, describe, normalise, pack_header
from crfs.convert.members import MemberWriter
from crfs.convert.order import drop_reserved, with_landmark
from crfs.errors import FormatError
from crfs.formats.footer import FooterKind, build_footer
from crfs.formats.toc import LANDMARKS, TOC_DIGEST_ANNOTATION, TOC_NAME

UNCOMPRESSED_SIZE_ANNOTATION = "io.containers.estargz.uncompressed-size"
CHUNK_SIZE = 4 << 20
_PIECE = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)


@dataclass(frozen=True, slots=True)
class Options:
    """How to write a layer; sizes are bytes of uncompressed data.

    Files are cut into chunks of `chunk_size`. Each chunk has a gzip member of its own, unless
    `min_chunk_size` is more than 0: then a member ends only once it holds that much, and readers need to know
    innerOffset. The `prioritized` names come first, for readers to prefetch (stargz has no way to say so, and
    keeps the order); entries must then be readable in any order. `level` is zlib's.
    """

    kind: FooterKind = FooterKind.ESTARGZ
    chunk_size: int = CHUNK_SIZE
    min_chunk_size: int = 0
    prioritized: tuple[str, ...] = ()
    level: int = 9


@dataclass(frozen=True, slots=True)
class ConvertedLayer:
    """What a manifest and a config need to know of a layer that was written.

    `digest` and `size` are the blob's, `diff_id` and `uncompressed_size` its tar's, `toc_digest` that of the
    TOC's JSON. `annotations` belong on the layer's descriptor. `external_toc` is a blob of its own (a
    tar.gz), for EXTERNAL_TOC.
    """

    digest: str
    size: int
    diff_id: str
    uncompressed_size: int
    toc_digest: str
    annotations: dict[str, str]
    external_toc: bytes | None = None


_DEFAULT = Options()


def write_estargz(entries: Iterable[TarEntry], out: BinaryIO, options: Options = _DEFAULT) -> ConvertedLayer:
    """Write a layer of `entries` to `out`.

    FormatError where an entry can't be in such a layer: an unknown type, a name that isn't UTF-8, a payload
    that ends early.
    """
    writer = _Writer(out, options)
    ordered = drop_reserved(entries)
    if options.kind is not FooterKind.STARGZ:
        ordered = with_landmark(ordered, options.prioritized)
    for entry in ordered:
        writer.add(entry)
    return writer.finish()


class _Writer:
    """A layer under way: entries in, members and a TOC out."""

    def __init__(self, out: BinaryIO, options: Options) -> None:
        self._options = options
        self._members = MemberWriter(out, options.level)
        self._names = OwnerNames()
        self._toc: list[bytes] = []

    def add(self, entry: TarEntry) -> None:
        """Write the entry's header and payload, and note it in the TOC."""
        info = normalise(entry.info)
        described = describe(info, self._names)
        self._members.write(pack_header(info))
        chunks = [described]
        if info.size:
            with damage_as_format_error(), entry.open_payload() as payload:
                chunks = self._add_payload(described, payload)
        elif info.isreg():
            described.digest = f"sha256:{hashlib.sha256().hexdigest()}"
        self._toc += map(msgspec.json.encode, chunks)

    def _add_payload(self, described: WrittenEntry, payload: IO[bytes]) -> list[WrittenEntry]:
        """Write a file's bytes and their padding; the TOC entries of its chunks, the file's own one first."""
        whole = hashlib.sha256()
        chunks = []
        for file_off in range(0, described.size, self._options.chunk_size):
            size = min(self._options.chunk_size, described.size - file_off)
            chunk = WrittenEntry(name=described.name, type="chunk") if file_off else described
            self._begin_chunk(described.name)
            chunk.offset, chunk.inner_offset = self._members.start, self._members.inner_off
            chunk.chunk_offset = file_off
            # absent means the rest of the file: the reference writes it for full chunks only
            chunk.chunk_size = size if size == self._options.chunk_size else 0
            digest = self._copy(payload, size, whole, described.name)
            if self._options.kind is not FooterKind.STARGZ:
                chunk.chunk_digest = digest
            chunks.append(chunk)
        described.digest = f"sha256:{whole.hexdigest()}"
        self._members.write(bytes(-described.size % _BLOCK))
        return chunks

    def _begin_chunk(self, name: str) -> None:
        """End the open member unless it may take more.

        A chunk never lies in the blob's first member: in a TOC, offset 0 means none. And a landmark begins
        one, since what comes before it is prefetched as a whole.
        """
        members = self._members
        full = members.inner_off >= max(self._options.min_chunk_size, 1)
        if full or not members.start or name in LANDMARKS:
            members.cut()

    def _copy(self, payload: IO[bytes], size: int, whole: "hashlib._Hash", name: str) -> str:
        """Write the next `size` bytes of a payload; their digest."""
        digest = hashlib.sha256()
        left = size
        while left:
            piece = payload.read(min(left, _PIECE))
            if not piece:
                raise FormatError(f"{name!r} ends {left} bytes before its size")
            digest.update(piece)
            whole.update(piece)
            self._members.write(piece)
            left -= len(piece)
        return f"sha256:{digest.hexdigest()}"

    def finish(self) -> ConvertedLayer:
        """Write the TOC, the end of the tar, and the footer."""
        json = b'{"version":1,"entries":[' + b",".join(self._toc) + b"]}"
        external = None
        if self._options.kind is FooterKind.EXTERNAL_TOC:
            external = _pack_external(json, self._options.level)
            self._members.write(_END)
            self._members.write_footer(build_footer(self._options.kind, 0))
        else:
            self._members.cut()
            toc_off = self._members.start
            self._members.write(_pack_toc(json))
            self._members.write_footer(build_footer(self._options.kind, toc_off))
        return self._result(f"sha256:{hashlib.sha256(json).hexdigest()}", external)

    def _result(self, toc_digest: str, external: bytes | None) -> ConvertedLayer:
        members = self._members
        annotations = {}
        if self._options.kind is not FooterKind.STARGZ:
            annotations[TOC_DIGEST_ANNOTATION] = toc_digest
            annotations[UNCOMPRESSED_SIZE_ANNOTATION] = str(members.uncompressed_size)
        return ConvertedLayer(
            members.digest,
            members.size,
            members.diff_id,
            members.uncompressed_size,
            toc_digest,
            annotations,
            external,
        )


def _pack_toc(json: bytes) -> bytes:
    """The TOC as the last file of a tar, and the tar's end."""
    info = tarfile.TarInfo(TOC_NAME)
    info.size = len(json)
    return info.tobuf(tarfile.USTAR_FORMAT) + json + bytes(-len(json) % _BLOCK) + _END


def _pack_external(json: bytes, level: int) -> bytes:
    out = BytesIO()
    members = MemberWriter(out, level)
    members.write(_pack_toc(json))
    members.cut()
    return out.getvalue()
