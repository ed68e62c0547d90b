"""Builds the objects that an image is opened and read with, and takes them down in the reverse order.

Used by the subcommands that open an image. Threads start here, so a daemon forks before.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crfs._native.index import Tree
from crfs._native.pagecache import PageCache
from crfs._native.union import merge
from crfs.blobs.blob import Blob, ImageSource
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.directories import cache_directory
from crfs.blobs.endpoint import Access
from crfs.blobs.fetchloop import FetchLoop
from crfs.blobs.http import Http
from crfs.blobs.layout import LayoutImage
from crfs.blobs.localfile import FileBlob
from crfs.blobs.ranges import RangeFetcher
from crfs.blobs.registriesconf import load_registries
from crfs.blobs.registry import RegistryImage
from crfs.blobs.store import Store, open_store
from crfs.blobs.url import UrlBlob
from crfs.errors import CrfsError, UsageError
from crfs.formats.platforms import Platform, host_platform, parse_platform
from crfs.formats.reference import (
    FileSource,
    ImageReference,
    LayoutReference,
    Source,
    UrlSource,
)
from crfs.image.chunks import ChunkLoader
from crfs.image.reader import ImageReader
from crfs.image.resolve import Resolved, resolve_blob, resolve_image
from crfs.image.verify import verify_in_background
from crfs.layers.layer import Trust
from crfs.layers.opener import Opener

PAGE_CACHE_BYTES = 24 << 20
# retries, their pauses and a slow transfer included; then the reader gets EIO
READ_SECONDS = 120.0
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How images are reached and where their bytes are kept; None leaves it to the defaults."""

    cache: Path | None = None
    authfile: str | None = None
    tls_verify: bool | None = None
    platform: str | None = None
    allow_unverified: bool = False


def settings_of(args: argparse.Namespace) -> Settings:
    """What the options of crfs.cli.options.add_source_options() say."""
    return Settings(args.cache, args.authfile, args.tls_verify, args.platform, args.allow_unverified)


@dataclass(frozen=True, slots=True)
class Services:
    """What outlives one image: the fetch thread and its connections, the decoders, the disk cache.

    `pool` is for what somebody waits for, `idle` (one thread) for the rest.
    """

    loop: FetchLoop
    http: Http
    pool: ThreadPoolExecutor
    idle: ThreadPoolExecutor
    store: Store

    def close(self) -> None:
        """End every thread; what still waits fails."""
        with contextlib.suppress(TimeoutError):
            self.loop.submit(self.http.close()).result(_CLOSE_SECONDS)
        self.loop.close()
        for pool in (self.pool, self.idle):
            pool.shutdown(wait=True, cancel_futures=True)


def open_services(settings: Settings) -> Services:
    """Start the threads. CrfsError where the cache can't be used."""
    store = open_store((settings.cache or cache_directory()).absolute())
    loop = FetchLoop()
    loop.start()
    pool = ThreadPoolExecutor(os.cpu_count() or 2, "crfs-decode")
    idle = ThreadPoolExecutor(1, "crfs-idle")
    return Services(loop, Http(), pool, idle, store)


def open_source(
    source: Source, settings: Settings, http: Http
) -> RegistryImage | LayoutImage | UrlBlob | FileBlob:
    """The image, or the single layer blob, that a source names. Nothing is fetched yet."""
    verify = settings.tls_verify is not False
    match source:
        case ImageReference():
            if settings.authfile and not os.access(settings.authfile, os.R_OK):
                raise UsageError(f"{settings.authfile}: the credentials can't be read")
            access = Access(http, CredentialStore(settings.authfile), settings.tls_verify)
            return RegistryImage(source, access, load_registries())
        case LayoutReference():
            return LayoutImage(source)
        case UrlSource():
            return UrlBlob(source, http, verify=verify)
        case FileSource():
            return FileBlob(source.path, str(source))


T = TypeVar("T")
OnImage = Callable[[ImageSource, Opener, Platform], Coroutine[Any, Any, T]]
OnBlob = Callable[[Blob, Opener], Coroutine[Any, Any, T]]


def submit_to_source(
    services: Services, settings: Settings, source: Source, on_image: OnImage[T], on_blob: OnBlob[T]
) -> Future[T]:
    """Run a coroutine on what a source names: an image, or a single layer blob."""
    opener = Opener(services.store, services.pool, allow_unverified=settings.allow_unverified)
    platform = parse_platform(settings.platform) if settings.platform else host_platform()
    opened = open_source(source, settings, services.http)
    if isinstance(opened, RegistryImage | LayoutImage):
        return services.loop.submit(on_image(opened, opener, platform))
    return services.loop.submit(on_blob(opened, opener))


def resolve(services: Services, settings: Settings, source: Source) -> Resolved:
    """Open all layers of what a source names; any CrfsError."""
    return submit_to_source(services, settings, source, resolve_image, resolve_blob).result()


def read_tree(services: Services, resolved: Resolved) -> tuple[Tree, ImageReader]:
    """Merge the layers, and make what reads their files."""
    try:
        tree = Tree(merge([layer.index for layer in resolved.layers]))
    except CrfsError as error:
        raise type(error)(f"{resolved.name}: {error}") from error
    for layer in resolved.layers:
        layer.index.clear()
    pages = PageCache(PAGE_CACHE_BYTES)
    loader = ChunkLoader(
        tree,
        resolved.layers,
        pages,
        services.store,
        services.loop,
        RangeFetcher(),
        services.pool,
        services.idle,
    )
    reader = ImageReader(tree, resolved.layers, pages, services.store, loader, services.pool, READ_SECONDS)
    for layer in resolved.layers:
        if layer.trust is Trust.BACKGROUND:
            services.loop.submit(verify_in_background(layer))
    return tree, reader
