"""Which format is a layer in, and can it be read lazily? Coroutines of the fetch loop, one per layer at once.

A layer with a TOC that the manifest vouches for costs one request: its tail, which holds footer and TOC.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from crfs._native.inflate import inflate
from crfs._native.layerindex import LayerIndex
from crfs._native.tocindex import LossyTocError, fill_index
from crfs.blobs.blob import Blob
from crfs.blobs.fetchloop import pooled
from crfs.blobs.store import Store
from crfs.errors import CrfsError, FormatError, UnsupportedError
from crfs.formats.digest import verify
from crfs.formats.footer import FooterKind, find_footer
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import Compression, layer_compression
from crfs.formats.toc import MAX_TOC_SIZE, RESERVED_NAMES, TOC_DIGEST_ANNOTATION, iter_toc, unpack_toc
from crfs.layers.layer import Format, Layer, Trust

DiffId = Callable[[], Awaitable[str]]

# a TOC takes about this share of a layer of small files; too short a tail costs a second request
_TAIL_SHARE = 128
_TAIL_MIN, _TAIL_MAX = 64 << 10, 8 << 20


@dataclass(frozen=True, slots=True)
class Toc:
    """A TOC that was found: its member's place in the blob, its kind, and what it indexes."""

    format: Format
    toc_off: int
    blob_size: int
    index: LayerIndex


class Opener:
    """Opens layers into a cache; `pool` does what would hold up the loop.

    `allow_unverified`: read a stargz lazily although nothing ties its TOC to the manifest.
    """

    def __init__(self, store: Store, pool: Executor, *, allow_unverified: bool = False) -> None:
        self._store = store
        self._pool = pool
        self._allow_unverified = allow_unverified

    async def open_layer(self, blob: Blob, descriptor: Descriptor, diff_id: DiffId) -> Layer:
        """A layer of an image; `diff_id` is only asked where the layer has to be fetched whole.

        UnsupportedError for a media type that is no layer's; FormatError, DigestMismatch; transport errors.
        """
        lazy = await self.open_lazy(blob, descriptor)
        if isinstance(lazy, Layer):
            return lazy
        return await self._open_whole(blob, descriptor.digest, await diff_id(), lazy)

    async def open_lazy(self, blob: Blob, descriptor: Descriptor) -> Layer | str:
        """The layer, if it can be read lazily, or why it can't be. Raises as open_layer() does."""
        compression = layer_compression(descriptor.media_type)
        if compression is None:
            raise UnsupportedError(f"{blob.name}: {descriptor.media_type!r} is no layer that can be mounted")
        toc_digest = descriptor.annotations.get(TOC_DIGEST_ANNOTATION)
        if compression is not Compression.GZIP:
            return f"its format is {descriptor.media_type}"
        if not toc_digest and not self._allow_unverified:
            return "no TOC that the manifest vouches for"
        found = await self.find_toc(blob, descriptor.size, toc_digest)
        if isinstance(found, str):
            return found
        return lazy_layer(descriptor.digest, blob, found, Trust.MANIFEST if toc_digest else Trust.BACKGROUND)

    async def open_single(self, blob: Blob) -> Layer:
        """A blob without a manifest: its TOC, if it has one, is taken at its word."""
        found = await self.find_toc(blob, None, None)
        if isinstance(found, Toc):
            return lazy_layer(blob.name, blob, found, Trust.TOC)
        return await self._open_whole(blob, None, None, found)

    async def find_toc(self, blob: Blob, size: int | None, toc_digest: str | None) -> Toc | str:
        """The blob's TOC, verified against `toc_digest` where there is one, or why it can't be used."""
        guess = min(max(size // _TAIL_SHARE, _TAIL_MIN), _TAIL_MAX) if size else _TAIL_MIN
        tail, total = await blob.fetch_tail(guess)
        if size is not None and total != size:
            raise FormatError(f"{blob.name}: the blob has {total} bytes, its descriptor says {size}")
        footer = find_footer(tail)
        if footer is None:
            return "no stargz footer"
        if footer.kind is FooterKind.EXTERNAL_TOC:
            return "its TOC lies in another image"
        data_end = total - footer.size
        if not footer.toc_off < data_end:
            raise FormatError(
                f"{blob.name}: the footer says that the TOC is at {footer.toc_off}, behind the end"
            )
        if total - footer.toc_off > MAX_TOC_SIZE:
            raise FormatError(f"{blob.name}: the TOC has more than {MAX_TOC_SIZE} bytes")
        if footer.toc_off < total - len(tail):
            tail = await blob.fetch_range(footer.toc_off, total - len(tail)) + tail
        member = tail[footer.toc_off - total : -footer.size]
        kind = Format.STARGZ if footer.kind is FooterKind.STARGZ else Format.ESTARGZ
        try:
            index = await pooled(self._pool, lambda: _read_toc(member, footer.toc_off, toc_digest))
        except LossyTocError as error:
            return str(error)
        except CrfsError as error:
            raise type(error)(f"{blob.name}: {error}") from error
        return Toc(kind, footer.toc_off, total, index)

    async def _open_whole(self, blob: Blob, digest: str | None, diff_id: str | None, reason: str) -> Layer:
        # late: tarfile and zstandard are not for those who wait for a lazily read image
        from crfs.layers.ingest import open_whole

        return await open_whole(blob, digest, diff_id, reason, self._store, self._pool)


def lazy_layer(name: str, blob: Blob, toc: Toc, trust: Trust) -> Layer:
    """A layer whose bytes are fetched as they are read."""
    toc_size = toc.blob_size - toc.toc_off
    return Layer(name, toc.format, trust, toc.index, blob, toc.blob_size, toc_size=toc_size)


def _read_toc(member: bytes, toc_off: int, toc_digest: str | None) -> LayerIndex:
    """The index out of a compressed TOC member, whose trailer says how large it is (RFC 1952, ISIZE)."""
    size = int.from_bytes(member[-4:], "little")
    if size > MAX_TOC_SIZE:
        raise FormatError(f"the TOC inflates to more than {MAX_TOC_SIZE} bytes")
    json = unpack_toc(inflate(member, size))
    if toc_digest:
        verify(json, toc_digest, "the TOC")
    index = LayerIndex()
    fill_index(index, iter_toc(json), RESERVED_NAMES)
    index.seal(toc_off)
    return index
