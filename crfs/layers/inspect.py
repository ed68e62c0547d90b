"""What can be said of a layer without fetching it: format, laziness, trust, counts. Fetch loop only."""

import msgspec

from crfs.blobs.blob import Blob
from crfs.errors import FormatError
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import Compression, layer_compression
from crfs.formats.voucher import NOTHING, read_voucher
from crfs.layers.findtoc import FindExternal, Toc, no_external
from crfs.layers.layer import Format, Layer, Trust
from crfs.layers.opener import Opener, lazy_layer

_FORMATS = {
    Compression.NONE: Format.TAR,
    Compression.GZIP: Format.TAR_GZIP,
    Compression.ZSTD: Format.TAR_ZSTD,
}


class LayerReport(msgspec.Struct, frozen=True, rename="kebab"):
    """One layer; sizes in bytes. None: not known before the layer has been fetched.

    `reason` says why the layer is not read lazily, `verified` by what its bytes are known to be right.
    """

    digest: str
    media_type: str | None
    format: str
    lazy: bool
    reason: str | None
    verified: str
    size: int | None
    toc_size: int | None = None
    entries: int | None = None
    chunks: int | None = None
    file_bytes: int | None = None


async def inspect_layer(
    opener: Opener, blob: Blob, descriptor: Descriptor, find_external: FindExternal = no_external
) -> LayerReport:
    """A layer of an image; raises what opening it would."""
    compression = layer_compression(descriptor.media_type)
    if compression is None:
        reason, shown = "no layer that can be mounted", "unknown"
        return LayerReport(
            descriptor.digest, descriptor.media_type, shown, False, reason, "not at all", descriptor.size
        )
    lazy = await opener.open_lazy(blob, descriptor, find_external)
    if isinstance(lazy, Layer):
        return _lazy_report(lazy, descriptor.digest, descriptor.media_type)
    format_, reason = _FORMATS[compression], lazy
    if compression is not Compression.NONE and not read_voucher(descriptor.annotations).binds:
        try:
            found = await opener.find_toc(blob, descriptor.size, NOTHING)
        except FormatError as error:
            # no mount would look at it
            found = reason = f"its TOC is of no use: {error}"
        if isinstance(found, Toc):
            format_ = found.format
            reason = "nothing ties its TOC to the manifest (--allow-unverified reads it lazily)"
    return LayerReport(
        descriptor.digest,
        descriptor.media_type,
        format_.value,
        False,
        reason,
        Trust.WHOLE.value,
        descriptor.size,
    )


async def inspect_blob(opener: Opener, blob: Blob) -> LayerReport:
    """A single blob that no manifest names."""
    found = await opener.find_toc(blob, None, NOTHING)
    if isinstance(found, Toc):
        return _lazy_report(lazy_layer(blob.name, blob, found, Trust.TOC), blob.name, None)
    return LayerReport(blob.name, None, "tar, if anything", False, found, Trust.NONE.value, None)


def _lazy_report(layer: Layer, digest: str, media_type: str | None) -> LayerReport:
    entries, chunks = layer.index.counts
    return LayerReport(
        digest,
        media_type,
        layer.format.value,
        True,
        None,
        layer.trust.value,
        layer.size,
        layer.toc_size,
        entries,
        chunks,
        layer.index.file_bytes,
    )
