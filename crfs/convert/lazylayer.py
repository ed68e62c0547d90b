"""Tar entries into a layer that can be read lazily: stargz, eStargz, with an external TOC, or zstd:chunked.

Follows stargz-snapshotter's docs/estargz.md, and containers/storage's zstd:chunked. The blob is at the same time a
plain tar.gz or tar.zst: members one after the other, each beginning where a reader may want to begin. Streaming:
bounded memory, but for the TOC. The same entries and options give the same bytes.
"""

import enum
import hashlib
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import IO

import msgspec

from crfs.convert.entries import TarEntry, damage_as_format_error
from crfs.convert.headers import OwnerNames, WrittenEntry, describe, is_plain, normalise, pack_header
from crfs.convert.landmarks import check_reserved, drop_reserved, landmark
from crfs.convert.members import MemberWriter, Placed, Sink
from crfs.convert.packing import Pack, gzip_packer, zstd_packer
from crfs.convert.tocwriter import TocWriter
from crfs.errors import FormatError, UnsupportedError
from crfs.formats.digest import sha256_digest
from crfs.formats.footer import FooterKind, build_footer
from crfs.formats.mediatypes import OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from crfs.formats.toc import (
    LANDMARKS,
    NO_PREFETCH_LANDMARK,
    RESERVED_NAMES,
    TOC_DIGEST_ANNOTATION,
    TOC_NAME,
)
from crfs.formats.zstdchunked import FRAME_HEADER_SIZE, Dialect, Place, position_annotations, skippable_frame
from crfs.formats.zstdchunked import build_footer as build_zstd_footer

UNCOMPRESSED_SIZE_ANNOTATION = "io.containers.estargz.uncompressed-size"
CHUNK_SIZE = 4 << 20
_PIECE = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)


class Kind(enum.Enum):
    """What is written."""

    ESTARGZ = "estargz"
    STARGZ = "stargz"
    EXTERNAL_TOC = "external-toc"
    ZSTD_STARGZ = "zstd:chunked, stargz-snapshotter's"
    ZSTD_PODMAN = "zstd:chunked, podman's"

    @property
    def is_zstd(self) -> bool:
        """Whether its members are zstd frames."""
        return self in (Kind.ZSTD_STARGZ, Kind.ZSTD_PODMAN)

    @property
    def toc_in_tar(self) -> bool:
        """Whether the TOC is a file of the layer's own tar."""
        return self in (Kind.ESTARGZ, Kind.STARGZ)

    @property
    def has_landmark(self) -> bool:
        """Whether readers look for one."""
        return self in (Kind.ESTARGZ, Kind.EXTERNAL_TOC, Kind.ZSTD_STARGZ)


class Options(msgspec.Struct, frozen=True):
    """How to write a layer; sizes are bytes of uncompressed data.

    Files are cut into chunks of `chunk_size`. Each chunk has a member of its own, unless `min_chunk_size` is more
    than 0: then a member ends only once it holds that much, and readers need to know innerOffset (podman's don't).
    `level` is libdeflate's, or zstd's. `keep_tar`: the tar stays what it was, to the byte; entries must then have
    their `raw` headers. `ordered`: they have their landmark already.
    """

    kind: Kind = Kind.ESTARGZ
    chunk_size: int = CHUNK_SIZE
    min_chunk_size: int = 0
    level: int = 6
    keep_tar: bool = False
    ordered: bool = False


class ConvertedLayer(msgspec.Struct, frozen=True):
    """What a manifest and a config need to know of a layer that was written.

    `digest` and `size` are the blob's, `diff_id` and `uncompressed_size` its tar's, `toc_digest` that of the
    TOC's JSON. `annotations` belong on the layer's descriptor. `external_toc` is a blob of its own (a
    tar.gz), for EXTERNAL_TOC.
    """

    media_type: str
    digest: str
    size: int
    diff_id: str
    uncompressed_size: int
    toc_digest: str | None = None
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    external_toc: bytes | None = None


_DEFAULT = Options()


def write_layer(
    entries: Iterable[TarEntry],
    out: Sink,
    options: Options = _DEFAULT,
    pool: Executor | None = None,
    tail: Callable[[], bytes] = lambda: _END,
) -> ConvertedLayer:
    """Write a layer of `entries` to `out`, compressing in `pool` where there is one.

    FormatError where an entry is damaged: an unknown type, a payload that ends early. NotLazyError where a TOC can't
    say what it is: a name that isn't UTF-8, or is reserved.
    UnsupportedError where `keep_tar` can't be. `tail` is asked for a tar's own end, with that.
    """
    if options.keep_tar and options.kind.toc_in_tar:
        raise UnsupportedError(
            f"{options.kind.value} has its TOC in the tar, which can't stay what it was then"
        )
    writer = _Writer(out, options, pool)
    ordered = check_reserved(entries) if options.keep_tar else entries
    if not options.keep_tar and not options.ordered:
        ordered = drop_reserved(entries)
        if options.kind.has_landmark:
            writer.add(landmark(NO_PREFETCH_LANDMARK))
    for entry in ordered:
        writer.add(entry)
    return writer.finish(tail() if options.keep_tar else _END)


class _Writer:
    """A layer under way: entries in, members and a TOC out."""

    def __init__(self, out: Sink, options: Options, pool: Executor | None) -> None:
        self._options = options
        self._kind = options.kind
        self._pack: Pack = (zstd_packer if options.kind.is_zstd else gzip_packer)(options.level)
        self._members = MemberWriter(out, self._pack, pool)
        self._names = OwnerNames()
        self._toc = TocWriter()

    def add(self, entry: TarEntry) -> None:
        """Write the entry's header and payload, and note it in the TOC."""
        info = normalise(entry.info)
        described = describe(info, self._names, self._kind is Kind.ZSTD_PODMAN)
        self._members.write(self._header(entry, info))
        group, unplaced = [described], [0]
        if info.size:
            with damage_as_format_error(), entry.open_payload() as payload:
                self._add_payload(group, unplaced, payload)
        elif info.isreg():
            described.digest = f"sha256:{hashlib.sha256().hexdigest()}"
        if not (self._options.keep_tar and entry.name in RESERVED_NAMES):
            self._toc.add(entry.name, group, unplaced)

    def _header(self, entry: TarEntry, info: tarfile.TarInfo) -> bytes:
        """The header's own blocks, where they say neither more nor less than `info`."""
        if entry.raw is not None and is_plain(entry.info):
            return entry.raw
        if self._options.keep_tar:
            raise UnsupportedError(
                f"{info.name!r} is sparse, or of another kind that only another tar can hold"
            )
        return pack_header(info)

    def _add_payload(self, group: list[WrittenEntry], unplaced: list[int], payload: IO[bytes]) -> None:
        """Write a file's bytes and their padding; the TOC entries of its chunks join the file's own in `group`."""
        described, chunk_size = group[0], self._options.chunk_size
        only = described.size <= chunk_size
        whole = None if only else hashlib.sha256()
        for file_off in range(0, described.size, chunk_size):
            size = min(chunk_size, described.size - file_off)
            chunk = WrittenEntry(name=described.name, type="chunk") if file_off else described
            self._begin_chunk(described.name)
            chunk.chunk_offset = file_off
            # absent means the rest of the file: the reference writes it for full chunks only
            chunk.chunk_size = size if size == chunk_size else 0
            unplaced[0] += 1
            self._members.mark(size, self._placer(chunk, unplaced, only))
            self._copy(payload, size, whole, described.name)
            if self._kind is Kind.ZSTD_PODMAN:
                chunk.chunk_size = 0 if only else size
                self._members.cut()
            if file_off:
                group.append(chunk)
        if whole is not None:
            described.digest = f"sha256:{whole.hexdigest()}"
        self._members.write(bytes(-described.size % _BLOCK))

    def _placer(self, chunk: WrittenEntry, unplaced: list[int], only: bool) -> Callable[[Placed], None]:
        def place(found: Placed) -> None:
            chunk.offset, chunk.inner_offset = found.start, found.inner_off
            if only:
                chunk.digest = found.digest
            if self._kind is Kind.ZSTD_PODMAN:
                chunk.end_offset = found.end
            if self._kind is not Kind.STARGZ:
                chunk.chunk_digest = found.digest
            unplaced[0] -= 1

        return place

    def _begin_chunk(self, name: str) -> None:
        """End the open member unless it may take more.

        A chunk never lies in the blob's first member: in a TOC, offset 0 means none. And a landmark begins
        one, since what comes before it is prefetched as a whole.
        """
        members = self._members
        full = members.inner_off >= max(self._options.min_chunk_size, 1)
        if full or not members.members or name in LANDMARKS or self._kind is Kind.ZSTD_PODMAN:
            members.cut()

    def _copy(self, payload: IO[bytes], left: int, whole: "hashlib._Hash | None", name: str) -> None:
        """Write the next `left` bytes of a payload."""
        while left:
            piece = payload.read(min(left, _PIECE))
            if not piece:
                raise FormatError(f"{name!r} ends {left} bytes before its size")
            if whole is not None:
                whole.update(piece)
            self._members.write(piece)
            left -= len(piece)

    def finish(self, tail: bytes) -> ConvertedLayer:
        """Write the end of the tar, the TOC, and the footer."""
        if self._kind.toc_in_tar:
            return self._finish_in_tar()
        if not self._kind.is_zstd:
            # what other members follow is cut here: the end of a tar is nobody's chunk
            self._members.cut()
        self._members.write(tail)
        self._members.flush()
        json = self._toc.finish()
        if self._kind.is_zstd:
            return self._finish_zstd(json)
        self._members.write_packed(build_footer(FooterKind.EXTERNAL_TOC, 0))
        return self._result(json, {}, self._pack(pack_toc(json)))

    def _finish_in_tar(self) -> ConvertedLayer:
        self._members.flush()
        json, toc_off = self._toc.finish(), self._members.size
        self._members.write(pack_toc(json))
        kind = FooterKind.STARGZ if self._kind is Kind.STARGZ else FooterKind.ESTARGZ
        self._members.write_packed(build_footer(kind, toc_off))
        return self._result(json, {})

    def _finish_zstd(self, json: bytes) -> ConvertedLayer:
        packed = self._pack(json)
        start = self._members.write_packed(skippable_frame(packed))
        place = Place(start + FRAME_HEADER_SIZE, len(packed), len(json))
        dialect = Dialect.PODMAN if self._kind is Kind.ZSTD_PODMAN else Dialect.STARGZ
        self._members.write_packed(build_zstd_footer(dialect, place))
        return self._result(json, position_annotations(dialect, place, sha256_digest(packed)))

    def _result(
        self, json: bytes, annotations: dict[str, str], external: bytes | None = None
    ) -> ConvertedLayer:
        members, toc_digest = self._members, sha256_digest(json)
        # podman takes a layer with the digests of both kinds for a forged one
        if self._kind not in (Kind.STARGZ, Kind.ZSTD_PODMAN):
            annotations[TOC_DIGEST_ANNOTATION] = toc_digest
            annotations[UNCOMPRESSED_SIZE_ANNOTATION] = str(members.uncompressed_size)
        return ConvertedLayer(
            OCI_LAYER_ZSTD if self._kind.is_zstd else OCI_LAYER_GZIP,
            members.digest,
            members.size,
            members.diff_id,
            members.uncompressed_size,
            toc_digest,
            annotations,
            external,
        )


def pack_toc(json: bytes) -> bytes:
    """The TOC as the last file of a tar, and the tar's end."""
    info = tarfile.TarInfo(TOC_NAME)
    info.size = len(json)
    return info.tobuf(tarfile.USTAR_FORMAT) + json + bytes(-len(json) % _BLOCK) + _END
