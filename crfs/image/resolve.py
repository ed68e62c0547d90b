"""From what the user named to opened layers: manifest, platform, then all layers at once. Fetch loop only."""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial

from msgspec import Struct

from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.fetchloop import Once, gather
from crfs.errors import FormatError, NotFoundError, UnsupportedError
from crfs.formats.manifest import (
    INDEX_DEPTH,
    Descriptor,
    ImageConfig,
    Manifest,
    parse_config,
    parse_manifest,
)
from crfs.formats.platforms import Platform, select_manifest
from crfs.formats.toc import EXTERNAL_SUFFIX, LAYER_DIGEST_ANNOTATION, MAX_TOC_SIZE
from crfs.layers.layer import Layer, Trust
from crfs.layers.opener import Opener

log = logging.getLogger(__name__)


class Resolved(Struct, frozen=True):
    """An image's opened layers, bottom first. `digest` is the manifest's; None for a single blob."""

    name: str
    digest: str | None
    layers: tuple[Layer, ...]


async def resolve_image(source: ImageSource, opener: Opener, platform: Platform) -> Resolved:
    """Open an image; see open_layers()."""
    digest, manifest = await fetch_manifest(source, platform)
    return await open_layers(source, opener, platform, digest, manifest)


async def open_layers(
    source: ImageSource, opener: Opener, platform: Platform, digest: str, manifest: Manifest
) -> Resolved:
    """Open all layers of an image. The first that fails ends the others; its error names its blob."""
    # fetched when somebody first wants a diff_id: a lazily read image never does
    config = Once(lambda: _fetch_config(source, manifest))
    tocs = TocImage(source, platform)
    layers = await gather(
        _open_layer(source, opener, manifest, config, tocs, number) for number in range(len(manifest.layers))
    )
    _warn_unverified(layers)
    return Resolved(source.name, digest, tuple(layers))


@contextlib.contextmanager
def _named(source: ImageSource) -> Iterator[None]:
    """Whatever is wrong with an image's JSON, the error says of which image."""
    try:
        yield
    except (FormatError, UnsupportedError) as error:
        raise type(error)(f"{source.name}: {error}") from error


async def _fetch_config(source: ImageSource, manifest: Manifest) -> ImageConfig:
    body = await source.fetch_blob(manifest.config)
    with _named(source):
        config = parse_config(body)
    if len(config.diff_ids) != len(manifest.layers):
        raise FormatError(
            f"{source.name}: the config has {len(config.diff_ids)} diff_ids for {len(manifest.layers)} layers"
        )
    return config


async def _open_layer(
    source: ImageSource,
    opener: Opener,
    manifest: Manifest,
    config: Once[ImageConfig],
    tocs: "TocImage",
    number: int,
) -> Layer:
    descriptor = manifest.layers[number]
    blob = source.open_blob(descriptor)

    async def diff_id() -> str:
        return (await config.get()).diff_ids[number]

    return await opener.open_layer(blob, descriptor, diff_id, partial(tocs.find, descriptor))


async def fetch_manifest(source: ImageSource, platform: Platform) -> tuple[str, Manifest]:
    """The manifest for `platform` and its digest, through any index."""
    wanted: str | None = None
    for _ in range(INDEX_DEPTH):
        fetched = await source.fetch_manifest(wanted)
        with _named(source):
            parsed = parse_manifest(fetched.body, fetched.media_type)
            if isinstance(parsed, Manifest):
                return fetched.digest, parsed
            wanted = select_manifest(parsed, platform).digest
    raise UnsupportedError(f"{source.name}: the index is nested more than {INDEX_DEPTH} levels deep")


class TocImage:
    """The image beside `source` that has TOCs for its layers (stargz-snapshotter's external TOC).

    Its manifest names each TOC's layer; which TOC is the right one says the image itself.
    """

    def __init__(self, source: ImageSource, platform: Platform) -> None:
        self._beside = source.open_beside(EXTERNAL_SUFFIX)
        self._platform = platform
        self._manifest = Once(self._fetch)

    async def find(self, layer: Descriptor) -> bytes | str:
        """The compressed TOC of a layer, or why there is none. It is not verified here."""
        if self._beside is None:
            return "its TOC lies in another image, which is found by a tag"
        manifest = await self._manifest.get()
        if isinstance(manifest, str):
            return manifest
        for descriptor in manifest.layers:
            if descriptor.annotations.get(LAYER_DIGEST_ANNOTATION) == layer.digest:
                if descriptor.size > MAX_TOC_SIZE:
                    raise FormatError(f"{self._beside.name}: a TOC of {descriptor.size} bytes is too long")
                return await self._beside.open_blob(descriptor).fetch_range(0, descriptor.size)
        return f"its TOC should lie in {self._beside.name}, which has none for it"

    async def _fetch(self) -> Manifest | str:
        assert self._beside is not None
        try:
            return (await fetch_manifest(self._beside, self._platform))[1]
        except NotFoundError:
            return f"its TOC should lie in {self._beside.name}, which is not there"


def _warn_unverified(layers: list[Layer]) -> None:
    for layer in layers:
        if layer.trust is Trust.BACKGROUND:
            log.warning(
                "%s: nothing ties its TOC to the manifest; it is read before it is verified", layer.blob.name
            )


async def resolve_blob(blob: Blob, opener: Opener) -> Resolved:
    """Open a single layer blob that no manifest vouches for."""
    return Resolved(blob.name, None, (await opener.open_single(blob),))
