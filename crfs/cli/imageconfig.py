"""Hands on an image's config, as it is in the image, to who mounts it. Imported by a mount that is asked for it."""

from pathlib import Path

from crfs.cli.services import Services, Settings, platform_of
from crfs.formats.reference import FileSource, Source, UrlSource
from crfs.image.kept import find_manifest
from crfs.image.resolve import fetch_manifest


def write_config(
    services: Services, settings: Settings, source: Source, digest: str | None, at: Path
) -> None:
    """Write the config's JSON, from the cache if it is there; nothing for a single layer. Any CrfsError."""
    if digest is not None and not isinstance(source, FileSource | UrlSource):
        at.write_bytes(_load(services, settings, digest) or _fetch(services, settings, source))


def _load(services: Services, settings: Settings, digest: str) -> bytes | None:
    manifest = find_manifest(services.documents, digest, platform_of(settings))
    kept = services.documents.load(manifest[1].config.digest) if manifest else None
    return kept.body if kept else None


def _fetch(services: Services, settings: Settings, source: Source) -> bytes:
    # late: for what the cache can't tell
    from crfs.blobs.localfile import FileBlob
    from crfs.blobs.url import UrlBlob
    from crfs.cli.sources import open_source

    async def fetch() -> bytes:
        image = open_source(source, settings, services)
        assert not isinstance(image, UrlBlob | FileBlob), image
        _, manifest = await fetch_manifest(image, platform_of(settings))
        return await image.fetch_blob(manifest.config)

    return services.network.submit(fetch()).result()
