"""Opens what a source names over the network or from files. Imported when the cache alone can't tell."""

import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from crfs.blobs.archive import ArchiveFiles, DockerArchiveImage
from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.http import Http
from crfs.blobs.keptsource import KeptSource
from crfs.blobs.layout import LayoutImage
from crfs.blobs.localfile import FileBlob
from crfs.blobs.registriesconf import load_registries
from crfs.blobs.registry import MIRROR_RETRY, RegistryImage
from crfs.blobs.url import UrlBlob
from crfs.cli.services import Services, Settings, platform_of
from crfs.errors import UsageError
from crfs.formats.platforms import Platform
from crfs.formats.reference import (
    ArchiveReference,
    FileSource,
    ImageReference,
    LayoutReference,
    Source,
    UrlSource,
)
from crfs.image.kept import KeptTree, load_tree
from crfs.image.resolve import Resolved, fetch_manifest, open_layers, resolve_blob
from crfs.layers.opener import Opener

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


def resolve(services: Services, settings: Settings, source: Source) -> tuple[Resolved, KeptTree | None]:
    """Open all layers of what a source names, and its merged tree where the cache has it; any CrfsError."""
    opener = Opener(services.store, services.pool, allow_unverified=settings.allow_unverified)
    opened = open_source(source, settings, services)
    if not isinstance(opened, KeptSource | LayoutImage | DockerArchiveImage):
        return services.network.submit(resolve_blob(opened, opener)).result(), None
    manifest = services.network.submit(fetch_manifest(opened, platform_of(settings))).result()
    kept = load_tree(services.store, *manifest, opened.open_blob)
    if kept is not None:
        return Resolved(opened.name, manifest[0], kept.layers), kept
    return services.network.submit(
        open_layers(opened, opener, platform_of(settings), *manifest)
    ).result(), None
