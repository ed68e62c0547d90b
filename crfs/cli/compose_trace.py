"""Puts together what pushes and pulls traces. Imported late."""

import datetime
from pathlib import Path

from crfs.blobs.blob import ImageSource
from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.push import RegistryPush
from crfs.blobs.registriesconf import load_registries
from crfs.cli.services import Services, Settings, platform_of
from crfs.cli.sources import open_registry
from crfs.cli.tracing import load_trace, trace_path
from crfs.errors import NotFoundError, UsageError
from crfs.formats.reference import ImageReference
from crfs.image.attached import Pusher, fetch_trace, push_trace
from crfs.image.resolve import fetch_manifest
from crfs.image.trace import Touch, merge_traces


def pull(services: Services, settings: Settings, source: ImageReference) -> list[Touch]:
    """The trace that is attached to an image. NotFoundError where there is none; any CrfsError."""

    async def work() -> list[Touch]:
        image = open_registry(source, settings, services.network.http)
        digest, _ = await fetch_manifest(image, platform_of(settings))
        touches = await fetch_trace(image, digest)
        if touches is None:
            raise NotFoundError(f"{source.text}: no trace is attached to {digest}")
        return touches

    return services.network.submit(work()).result()


def push(services: Services, settings: Settings, source: ImageReference, path: Path | None) -> str:
    """Attach a trace to an image, with what the one has that is attached already; the artifact's digest."""
    given = load_trace(path) if path is not None else None

    async def work() -> str:
        image = open_registry(source, settings, services.network.http)
        digest, manifest = await fetch_manifest(image, platform_of(settings))
        touches = given if given is not None else _load_kept(services, source, digest)
        before = await fetch_trace(image, digest)
        return await push_trace(
            _pusher(services, settings, source),
            digest,
            await _size(image, digest),
            manifest.media_type,
            merge_traces(before or [], touches),
            datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    return services.network.submit(work()).result()


def _load_kept(services: Services, source: ImageReference, digest: str) -> list[Touch]:
    path = trace_path(services.store.directory, digest)
    if not path.exists():
        raise UsageError(f"{source.text}: this machine has noted nothing of {digest}; mount it first")
    return load_trace(path)


def _pusher(services: Services, settings: Settings, source: ImageReference) -> Pusher:
    access = Access(services.network.http, CredentialStore(settings.authfile), settings.tls_verify)
    registry = RegistryPush(source, access, load_registries())
    return Pusher(registry.push_blob, registry.push_referrer)


async def _size(image: ImageSource, digest: str) -> int:
    """Bytes of a manifest."""
    return len((await image.fetch_manifest(digest)).body)
