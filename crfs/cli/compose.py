"""Builds the objects that an image is read with. Used by the subcommands that open an image.

Whatever knows the network is imported when the cache alone can't tell.
"""

from collections.abc import Sequence

from msgspec import Struct

from crfs._native.index import Tree
from crfs._native.pagecache import PageCache
from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.claims import try_claim
from crfs.blobs.network import LateBlob
from crfs.cli.likely import Likely
from crfs.cli.services import Services, Settings, platform_of
from crfs.cli.tracing import KEPT_SECONDS, keeper
from crfs.formats.manifest import Descriptor
from crfs.formats.reference import ImageReference, Source
from crfs.image.chunks import ChunkLoader
from crfs.image.completion import Completion
from crfs.image.counters import Counters
from crfs.image.kept import KeptTree, find_manifest, load_tree
from crfs.image.reader import ImageReader
from crfs.image.report import Report, Watched, report_images
from crfs.image.trace import Recorder
from crfs.layers.layer import Layer, Trust

PAGE_CACHE_BYTES = 16 << 20
# retries, their pauses and a slow transfer included; then the reader gets EIO
READ_SECONDS = 120.0


class OpenedImage(Struct, frozen=True):
    """An image that can be read. `digest` is its manifest's; None for a single blob."""

    name: str
    digest: str | None
    layers: Sequence[Layer]
    tree: Tree
    reader: ImageReader
    counters: Counters


def report_of(services: Services, images: Sequence[OpenedImage]) -> Report:
    """What is to be told of the images of one mount, at this moment; any thread."""
    watched = [Watched(image.digest, image.layers, image.counters) for image in images]
    return report_images(watched, services.network.stats)


def open_image(services: Services, settings: Settings, source: Source) -> OpenedImage:
    """Open what a source names; any CrfsError. What the cache can tell is asked of nobody else."""
    likely = Likely(services, settings)
    name, digest, kept = str(source), None, None
    if isinstance(source, ImageReference):
        name = source.text
        digest, kept = _find_kept(services, settings, source)
    if kept is None:
        # late, here and below: aiohttp takes longer to load than a mount
        from crfs.cli.sources import resolve

        name, digest, kept = resolve(services, settings, source, likely)
    if settings.image_config is not None:
        from crfs.cli.imageconfig import write_config

        write_config(services, settings, source, digest, settings.image_config)
    counters = Counters(len(kept.layers))
    reader = _open_reader(services, settings, kept, digest, counters, likely)
    return OpenedImage(name, digest, kept.layers, kept.tree, reader, counters)


def _find_kept(
    services: Services, settings: Settings, source: ImageReference
) -> tuple[str | None, KeptTree | None]:
    """The manifest's digest and the merged tree, where nobody need be asked for them."""
    named = services.documents.load_ref(str(source)) if settings.pull == "missing" else None
    pinned = source.digest or named
    manifest = find_manifest(services.documents, pinned, platform_of(settings)) if pinned else None
    if manifest is None:
        return None, None
    return manifest[0], load_tree(services.store, *manifest, _LateBlobs(services, settings, source))


def is_pinned(source: Source, settings: Settings) -> bool:
    """Whether what a source names need not be asked for again."""
    return isinstance(source, ImageReference) and (source.digest is not None or settings.pull == "missing")


def current_digest(services: Services, settings: Settings, source: Source) -> str:
    """The digest of the manifest of what a source other than a single layer names now; any CrfsError."""
    from crfs.cli.sources import fetch_digest

    return fetch_digest(services, settings, source)


class _LateBlobs:
    """Opens blobs of an image in a registry, about which nothing is looked up until bytes are missing."""

    def __init__(self, services: Services, settings: Settings, source: ImageReference) -> None:
        self._services = services
        self._settings = settings
        self._source = source
        self._image: ImageSource | None = None

    def __call__(self, descriptor: Descriptor) -> LateBlob:
        return LateBlob(f"{self._source.name}@{descriptor.digest}", lambda: self._open(descriptor))

    def _open(self, descriptor: Descriptor) -> Blob:
        from crfs.cli.sources import open_registry

        if self._image is None:
            self._image = open_registry(self._source, self._settings, self._services.network.http)
        return self._image.open_blob(descriptor)


def _open_reader(
    services: Services,
    settings: Settings,
    kept: KeptTree,
    digest: str | None,
    counters: Counters,
    likely: Likely,
) -> ImageReader:
    pages = PageCache(PAGE_CACHE_BYTES)
    loader = ChunkLoader(
        kept.tree, kept.layers, pages, services.store, services.network, services.pool, services.idle
    )
    for layer in kept.layers:
        if layer.trust is Trust.BACKGROUND:
            from crfs.image.verify import verify_in_background

            services.network.submit(verify_in_background(layer))
    directory = services.store.directory
    likely.start(kept, digest, loader)
    if settings.background_fetch:
        _complete(services, settings, kept, digest, loader)
    recorder = Recorder(kept.tree, kept.layers, None if settings.record else KEPT_SECONDS)
    services.endings.append(keeper(settings, directory, digest, recorder))
    return ImageReader(
        kept.tree,
        kept.layers,
        pages,
        services.store,
        loader,
        services.pool,
        READ_SECONDS,
        recorder.touch,
        counters,
    )


def _complete(
    services: Services, settings: Settings, kept: KeptTree, digest: str | None, loader: ChunkLoader
) -> None:
    """Fetch the rest of an image while nobody reads, where the cache can take it."""
    if digest is None or not services.store.takes(kept.tree.file_bytes):
        return
    name = f"rest-{digest.replace(':', '-')}"
    root = services.store.directory.root
    completion = Completion(
        kept.tree, kept.layers, loader, lambda: try_claim(root, name), settings.background_rate
    )
    completion.start()
    services.endings.append(completion.stop)
