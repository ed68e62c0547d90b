"""Opens what a source names over the network or from files. Imported when the cache alone can't tell."""

import contextlib
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from crfs._native.index import Tree
from crfs._native.union import merge
from crfs.blobs.archive import ArchiveFiles, DockerArchiveImage
from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.claims import Claim, await_release, try_claim
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.http import Http
from crfs.blobs.keptsource import KeptSource
from crfs.blobs.layout import LayoutImage
from crfs.blobs.localfile import FileBlob
from crfs.blobs.registriesconf import load_registries
from crfs.blobs.registry import MIRROR_RETRY, RegistryImage
from crfs.blobs.store import Store
from crfs.blobs.url import UrlBlob
from crfs.cli.likely import Likely
from crfs.cli.services import Services, Settings, platform_of
from crfs.errors import CrfsError, UsageError
from crfs.formats.platforms import Platform
from crfs.formats.reference import (
    ArchiveReference,
    FileSource,
    ImageReference,
    LayoutReference,
    Source,
    UrlSource,
)
from crfs.image.kept import KeptTree, load_tree, store_tree, tree_name
from crfs.image.resolve import Resolved, fetch_manifest, open_layers, resolve_blob
from crfs.layers.opener import Opener

# for another process to make the tree that is wanted here too
_OTHER_SECONDS = 60.0
T = TypeVar("T")
OnImage = Callable[[ImageSource, Opener, Platform], Coroutine[Any, Any, T]]
OnBlob = Callable[[Blob, Opener], Coroutine[Any, Any, T]]


def open_registry(
    source: ImageReference, settings: Settings, http: Http, *, patient: bool = True
) -> RegistryImage:
    """An image in a registry. Not `patient`: another answer is at hand if there is none within seconds."""
    if settings.authfile and not os.access(settings.authfile, os.R_OK):
        raise UsageError(f"{settings.authfile}: the credentials can't be read")
    access = Access(http, CredentialStore(settings.authfile), settings.tls_verify)
    return RegistryImage(source, access, load_registries(), None if patient else MIRROR_RETRY)


def open_source(
    source: Source, settings: Settings, services: Services
) -> KeptSource | LayoutImage | DockerArchiveImage | UrlBlob | FileBlob:
    """The image, or the single layer blob, that a source names. Nothing is fetched yet."""
    http = services.network.http
    match source:
        case ImageReference():
            known = services.documents.load_ref(str(source)) is not None
            image = open_registry(source, settings, http, patient=not known)
            return KeptSource(image, services.documents, str(source), source.digest)
        case LayoutReference():
            return LayoutImage(source)
        case ArchiveReference():
            return open_archive(source)
        case UrlSource():
            return UrlBlob(source, http, verify=settings.tls_verify is not False)
        case FileSource():
            return FileBlob(source.path, str(source))


def open_archive(source: ArchiveReference) -> LayoutImage | DockerArchiveImage:
    """An image in one tar."""
    if source.transport == "docker-archive":
        return DockerArchiveImage(source)
    return LayoutImage(source, ArchiveFiles(source.path))


def submit_to_source(
    services: Services, settings: Settings, source: Source, on_image: OnImage[T], on_blob: OnBlob[T]
) -> Future[T]:
    """Run a coroutine on what a source names: an image, or a single layer blob."""
    opener = Opener(services.store, services.pool, allow_unverified=settings.allow_unverified)
    opened = open_source(source, settings, services)
    if isinstance(opened, KeptSource | LayoutImage | DockerArchiveImage):
        return services.network.submit(on_image(opened, opener, platform_of(settings)))
    return services.network.submit(on_blob(opened, opener))


def resolve(
    services: Services, settings: Settings, source: Source, likely: Likely
) -> tuple[str, str | None, KeptTree]:
    """Name, manifest's digest (None for a single blob) and merged tree of what a source names; any CrfsError."""
    opener = Opener(services.store, services.pool, allow_unverified=settings.allow_unverified)
    opened = open_source(source, settings, services)
    if not isinstance(opened, KeptSource | LayoutImage | DockerArchiveImage):
        blob = services.network.submit(resolve_blob(opened, opener)).result()
        return blob.name, None, KeptTree(Tree(_merge(blob), sound=True), blob.layers)
    platform = platform_of(settings)
    digest, manifest = services.network.submit(fetch_manifest(opened, platform)).result()
    with contextlib.ExitStack() as meanwhile:
        if settings.image_config is not None:
            # into the cache, where it is found when it is to be written down
            meanwhile.callback(services.network.submit(opened.fetch_blob(manifest.config)).result)
        kept, claim = _find_or_claim(
            services.store, digest, lambda: load_tree(services.store, digest, manifest, opened.open_blob)
        )
        if kept is not None:
            return opened.name, digest, kept
        likely.begin(opened, digest, manifest)
        with contextlib.ExitStack() as claimed:
            claimed.callback(claim.release)
            image = services.network.submit(open_layers(opened, opener, platform, digest, manifest)).result()
            merged = _merge(image)
            services.idle.submit(store_tree, services.store, digest, image.layers, merged)
            services.idle.submit(claimed.pop_all().close)
        return opened.name, digest, KeptTree(Tree(merged, sound=True), image.layers)


def fetch_digest(services: Services, settings: Settings, source: Source) -> str:
    """The digest of the manifest of an image, for the platform that is wanted; any CrfsError."""
    opened = open_source(source, settings, services)
    assert not isinstance(opened, UrlBlob | FileBlob), opened
    return services.network.submit(fetch_manifest(opened, platform_of(settings))).result()[0]


def _find_or_claim(
    store: Store, digest: str, load: Callable[[], KeptTree | None]
) -> tuple[KeptTree | None, Claim]:
    """The tree of a manifest out of the cache, or the claim to make it. Who else makes it is waited for."""
    root, name = store.directory.root, tree_name(digest)
    kept = load()
    if kept is not None:
        return kept, Claim(None)
    claim = try_claim(root, name)
    if claim is None:
        await_release(root, name, _OTHER_SECONDS)
    # made since we looked, or by the one who was waited for, unless he failed
    kept = load()
    if kept is not None and claim is not None:
        claim.release()
    return kept, claim or Claim(None)


def _merge(image: Resolved) -> bytes:
    """The layers' one tree."""
    try:
        merged = merge([layer.index for layer in image.layers])
    except CrfsError as error:
        raise type(error)(f"{image.name}: {error}") from error
    for layer in image.layers:
        layer.index.clear()
    return merged
