"""Which format is a layer in, and can it be read lazily? Coroutines of the fetch loop, one per layer at once.

A layer with a TOC that the manifest vouches for mostly costs one request.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from crfs.blobs.blob import Blob
from crfs.blobs.fetchloop import again_if_damaged
from crfs.blobs.store import Store
from crfs.errors import FormatError, UnsupportedError
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import Compression, layer_compression
from crfs.formats.voucher import NOTHING, Voucher, read_voucher
from crfs.layers.findtoc import FindExternal, Toc, TocFinder, no_external
from crfs.layers.layer import Layer, Trust

DiffId = Callable[[], Awaitable[str]]


class Opener:
    """Opens layers into a cache; `pool` does what would hold up the loop.

    `allow_unverified`: read a stargz lazily although nothing ties its TOC to the manifest.
    """

    def __init__(self, store: Store, pool: Executor, *, allow_unverified: bool = False) -> None:
        self._store = store
        self._pool = pool
        self._allow_unverified = allow_unverified

    async def open_layer(
        self, blob: Blob, descriptor: Descriptor, diff_id: DiffId, find_external: FindExternal = no_external
    ) -> Layer:
        """A layer of an image; `diff_id` is only asked where the layer has to be fetched whole.

        UnsupportedError for a media type that is no layer's; FormatError, DigestMismatch; transport errors.
        """
        lazy = await self.open_lazy(blob, descriptor, find_external)
        if isinstance(lazy, Layer):
            return lazy
        return await self._open_whole(blob, descriptor.digest, await diff_id(), lazy)

    async def open_lazy(
        self, blob: Blob, descriptor: Descriptor, find_external: FindExternal = no_external
    ) -> Layer | str:
        """The layer, if it can be read lazily, or why it can't be. Raises as open_layer() does."""
        compression = layer_compression(descriptor.media_type)
        if compression is None:
            raise UnsupportedError(f"{blob.name}: {descriptor.media_type!r} is no layer that can be mounted")
        if compression is Compression.NONE:
            return f"its format is {descriptor.media_type}"
        try:
            voucher = read_voucher(descriptor.annotations)
        except FormatError as error:
            raise FormatError(f"{blob.name}: {error}") from error
        if not voucher.binds and not self._allow_unverified:
            return "no TOC that the manifest vouches for"
        found = await self.find_toc(blob, descriptor.size, voucher, find_external)
        if isinstance(found, str):
            return found
        return lazy_layer(
            descriptor.digest, blob, found, Trust.MANIFEST if voucher.binds else Trust.BACKGROUND
        )

    async def open_single(self, blob: Blob) -> Layer:
        """A blob without a manifest: its TOC, if it has one, is taken at its word."""
        found = await self.find_toc(blob, None, NOTHING)
        if isinstance(found, Toc):
            return lazy_layer(blob.name, blob, found, Trust.TOC)
        return await self._open_whole(blob, None, None, found)

    async def find_toc(
        self, blob: Blob, size: int | None, voucher: Voucher, find_external: FindExternal = no_external
    ) -> Toc | str:
        """See `TocFinder.find`."""
        return await again_if_damaged(TocFinder(blob, size, voucher, self._pool, find_external).find)

    async def _open_whole(self, blob: Blob, digest: str | None, diff_id: str | None, reason: str) -> Layer:
        # late: tarfile and zstandard are not for those who wait for a lazily read image
        from crfs.layers.ingest import open_whole

        return await again_if_damaged(
            lambda: open_whole(blob, digest, diff_id, reason, self._store, self._pool)
        )


def lazy_layer(name: str, blob: Blob, toc: Toc, trust: Trust) -> Layer:
    """A layer whose bytes are fetched as they are read."""
    return Layer(
        name,
        toc.format,
        trust,
        toc.index,
        blob,
        toc.blob_size,
        toc_size=toc.size,
        codec=toc.codec,
        landmark=toc.landmark,
    )
