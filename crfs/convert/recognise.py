"""Is a layer in a format already? By what the manifest says of it, and by its first and last bytes. Fetch loop."""

from crfs.blobs.blob import Blob
from crfs.convert.lazylayer import Kind
from crfs.convert.plan import LayerFormat, Plan
from crfs.formats.footer import FooterKind, find_footer
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import Compression, layer_compression
from crfs.formats.voucher import read_voucher
from crfs.formats.zstdchunked import MAX_FOOTER_SIZE, Dialect, find_place

_MAGIC = {LayerFormat.GZIP: b"\x1f\x8b", LayerFormat.ZSTD: b"\x28\xb5\x2f\xfd"}
_COMPRESSION = {
    LayerFormat.ESTARGZ: Compression.GZIP,
    LayerFormat.STARGZ: Compression.GZIP,
    LayerFormat.GZIP: Compression.GZIP,
    LayerFormat.ZSTD: Compression.ZSTD,
    LayerFormat.ZSTD_CHUNKED: Compression.ZSTD,
    LayerFormat.TAR: Compression.NONE,
}


async def is_in_format(blob: Blob, layer: Descriptor, plan: Plan) -> bool:
    """Whether the layer is what the plan would make of it, but for levels and sizes."""
    if layer_compression(layer.media_type) is not _COMPRESSION[plan.format]:
        return False
    if not plan.format.is_lazy:
        head = await blob.fetch_range(0, min(4, layer.size))
        if plan.format is LayerFormat.TAR:
            return not any(head.startswith(magic) for magic in _MAGIC.values())
        return head.startswith(_MAGIC[plan.format])
    voucher = read_voucher(layer.annotations)
    tail, _ = await blob.fetch_tail(MAX_FOOTER_SIZE)
    if plan.format is LayerFormat.ZSTD_CHUNKED:
        dialect = Dialect.PODMAN if plan.kind is Kind.ZSTD_PODMAN else Dialect.STARGZ
        named = f"{dialect.value}.manifest-position" in layer.annotations
        return named and voucher.binds and find_place(tail) is not None
    footer = find_footer(tail)
    if footer is None:
        return False
    if plan.format is LayerFormat.STARGZ:
        return footer.kind is FooterKind.STARGZ
    return footer.kind is FooterKind.ESTARGZ and voucher.json_digest is not None
