"""An image's layers, as `crfs inspect` shows them. Fetch loop only."""

from functools import partial

import msgspec

from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.fetchloop import gather
from crfs.formats.platforms import Platform
from crfs.image.resolve import TocImage, fetch_manifest
from crfs.layers.inspect import LayerReport, inspect_blob, inspect_layer
from crfs.layers.opener import Opener


class ImageReport(msgspec.Struct, frozen=True, rename="kebab"):
    """What `crfs inspect --json` prints: layers bottom first; `digest` is the manifest's."""

    name: str
    digest: str | None
    layers: list[LayerReport]


async def inspect_image(source: ImageSource, opener: Opener, platform: Platform) -> ImageReport:
    """Look at every layer of an image; nothing but manifests and tails is fetched."""
    digest, manifest = await fetch_manifest(source, platform)
    tocs = TocImage(source, platform)
    reports = await gather(
        inspect_layer(opener, source.open_blob(layer), layer, partial(tocs.find, layer))
        for layer in manifest.layers
    )
    return ImageReport(source.name, digest, reports)


async def inspect_single(blob: Blob, opener: Opener) -> ImageReport:
    """Look at a single layer blob."""
    return ImageReport(blob.name, None, [await inspect_blob(opener, blob)])
