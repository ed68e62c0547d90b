"""A layer's TOC, wherever it lies: in the blob's tail, at an annotation's position, in another image.

Coroutines of the fetch loop. Mostly one request: a good guess has footer and TOC in the same tail.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import NamedTuple

from msgspec import Struct

from crfs._native.inflate import inflate
from crfs._native.layerindex import LayerIndex
from crfs._native.tocindex import LossyTocError, fill_index
from crfs.blobs.blob import Blob
from crfs.blobs.fetchloop import pooled
from crfs.errors import CrfsError, FormatError
from crfs.formats.footer import Footer, FooterKind, find_footer
from crfs.formats.toc import MAX_TOC_SIZE, PREFETCH_LANDMARK, RESERVED_NAMES, iter_toc, unpack_toc
from crfs.formats.voucher import Voucher
from crfs.formats.zstdchunked import FRAME_HEADER_SIZE, Place, find_place
from crfs.layers.codec import GZIP, Codec
from crfs.layers.layer import Format

# the compressed TOC of a layer whose footer says that another image has it, or why it can't be had
FindExternal = Callable[[], Awaitable[bytes | str]]

# a TOC takes about this share of a layer of small files; too short a tail costs a second request
_TAIL_SHARE = 128
_TAIL_MIN, _TAIL_MAX = 64 << 10, 8 << 20


class Toc(Struct, frozen=True):
    """A TOC that was found, what it indexes, and how that is compressed; sizes are bytes of blobs.

    What lies before `landmark` is worth fetching before anybody asks.
    """

    format: Format
    codec: Codec
    size: int
    blob_size: int
    index: LayerIndex
    landmark: int = 0


class _Tail(NamedTuple):
    """The last bytes of a blob of `total`, and where they begin."""

    data: bytes
    total: int

    @property
    def start(self) -> int:
        return self.total - len(self.data)


async def no_external() -> str:
    """For blobs that are not an image's."""
    return "its TOC lies in another image"


class TocFinder:
    """Finds the TOC of one blob of `size` bytes (None: unknown); `voucher` is what is known of it.

    `pool` does what would hold up the loop.
    """

    def __init__(
        self,
        blob: Blob,
        size: int | None,
        voucher: Voucher,
        pool: Executor,
        find_external: FindExternal = no_external,
    ) -> None:
        self._blob = blob
        self._size = size
        self._voucher = voucher
        self._pool = pool
        self._find_external = find_external

    async def find(self) -> Toc | str:
        """The TOC, or why the layer can't be read by one.

        FormatError, DigestMismatch (naming the blob) for one that is damaged or not the right one; transport errors.
        """
        try:
            if self._size is not None and self._voucher.place is not None:
                return await self._read_zstd(self._voucher.place, self._size, None)
            return await self._search()
        except LossyTocError as error:
            return str(error)

    async def _search(self) -> Toc | str:
        size = self._size
        guess = min(max(size // _TAIL_SHARE, _TAIL_MIN), _TAIL_MAX) if size else _TAIL_MIN
        tail = _Tail(*await self._blob.fetch_tail(guess))
        if size is not None and tail.total != size:
            raise FormatError(
                f"{self._blob.name}: the blob has {tail.total} bytes, its descriptor says {size}"
            )
        footer = find_footer(tail.data)
        if footer is None:
            place = find_place(tail.data)
            return "no stargz footer" if place is None else await self._read_zstd(place, tail.total, tail)
        if footer.kind is FooterKind.EXTERNAL_TOC:
            return await self._read_external(footer, tail.total)
        return await self._read_gzip(footer, tail)

    async def _read_gzip(self, footer: Footer, tail: _Tail) -> Toc:
        toc_off = footer.toc_off
        if not toc_off < tail.total - footer.size:
            raise FormatError(
                f"{self._blob.name}: the footer says that the TOC is at {toc_off}, behind the end"
            )
        packed = await self._fetch(Place(toc_off, tail.total - footer.size - toc_off, 0), tail)
        kind = Format.STARGZ if footer.kind is FooterKind.STARGZ else Format.ESTARGZ
        index, landmark = await self._index(lambda: _unpack_tar(packed), toc_off)
        return Toc(kind, GZIP, tail.total - toc_off, tail.total, index, landmark)

    async def _read_external(self, footer: Footer, total: int) -> Toc | str:
        if not self._voucher.json_digest:
            return "its TOC lies in another image, and the manifest does not say which one it is"
        packed = await self._find_external()
        if isinstance(packed, str):
            return packed
        member = packed
        index, landmark = await self._index(lambda: _unpack_tar(member), total - footer.size)
        return Toc(Format.ESTARGZ_EXTERNAL, GZIP, len(packed), total, index, landmark)

    async def _read_zstd(self, place: Place, total: int, tail: _Tail | None) -> Toc:
        if place.off < FRAME_HEADER_SIZE or place.off + place.size > total or not place.size:
            raise FormatError(f"{self._blob.name}: its TOC is said to lie at {place.off}, behind the end")
        packed = await self._fetch(place, tail)
        # late: zstandard takes a while to load, and few images need it
        from crfs.layers.unzstd import ZSTD, unpack_json

        def unpack() -> bytes:
            self._voucher.check_packed(packed)
            return unpack_json(packed, place.unpacked_size)

        index, landmark = await self._index(unpack, place.off - FRAME_HEADER_SIZE)
        return Toc(Format.ZSTD_CHUNKED, ZSTD, place.size, total, index, landmark)

    async def _fetch(self, place: Place, tail: _Tail | None) -> bytes:
        """The compressed TOC, as much as possible out of the tail that is here already."""
        if place.size > MAX_TOC_SIZE:
            raise FormatError(f"{self._blob.name}: the TOC has more than {MAX_TOC_SIZE} bytes")
        end = place.off + place.size
        if tail is None or end <= tail.start:
            return await self._blob.fetch_range(place.off, end)
        head = b""
        if place.off < tail.start:
            head = await self._blob.fetch_range(place.off, tail.start)
        return head + tail.data[max(place.off - tail.start, 0) : end - tail.start]

    async def _index(self, unpack: Callable[[], bytes], data_end: int) -> tuple[LayerIndex, int]:
        """The index that a TOC is made into, once it has been verified, and where the landmark lies."""

        def work() -> tuple[LayerIndex, int]:
            json = unpack()
            self._voucher.check_json(json)
            index = LayerIndex()
            hidden = fill_index(index, json, iter_toc, RESERVED_NAMES)
            index.seal(data_end)
            return index, min(hidden.get(PREFETCH_LANDMARK, 0), data_end)

        try:
            return await pooled(self._pool, work)
        except LossyTocError:
            raise
        except CrfsError as error:
            raise type(error)(f"{self._blob.name}: {error}") from error


def _unpack_tar(member: bytes) -> bytes:
    """The JSON out of a gzip member, whose trailer says how large its tar is (RFC 1952, ISIZE)."""
    size = int.from_bytes(member[-4:], "little")
    if size > MAX_TOC_SIZE:
        raise FormatError(f"the TOC inflates to more than {MAX_TOC_SIZE} bytes")
    return unpack_toc(inflate(member, size))
