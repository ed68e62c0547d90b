"""An image of a registry whose manifests and configs are kept in the cache. Fetch loop only."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crfs.blobs.blob import Blob, FetchedManifest, ImageSource
from crfs.blobs.documents import Documents
from crfs.errors import TransportError
from crfs.formats.manifest import Descriptor

if TYPE_CHECKING:
    from crfs.formats.referrers import Referrer

log = logging.getLogger(__name__)


class KeptSource:
    """`image` (see `ImageSource`), asked for nothing that is in the cache by its digest.

    `reference` is the name by which a tag's digest is remembered, `digest` what it pins, if it does.
    """

    def __init__(self, image: ImageSource, documents: Documents, reference: str, digest: str | None) -> None:
        self._image = image
        self._documents = documents
        self._reference = reference
        self._digest = digest

    @property
    def name(self) -> str:
        return self._image.name

    async def fetch_manifest(self, digest: str | None = None) -> FetchedManifest:
        """See `ImageSource.fetch_manifest`. A tag is asked for; where nobody answers, it is what it was."""
        wanted = digest or self._digest
        if wanted is None:
            return await self._fetch_named()
        found = self._documents.load(wanted)
        if found is None:
            found = await self._image.fetch_manifest(wanted)
            self._documents.store(found)
        return found

    async def _fetch_named(self) -> FetchedManifest:
        try:
            found = await self._image.fetch_manifest()
        except TransportError as error:
            digest = self._documents.load_ref(self._reference)
            known = self._documents.load(digest) if digest else None
            if known is None:
                raise
            log.warning("%s; going on with %s, which %s was before", error, digest, self._reference)
            return known
        self._documents.store(found)
        self._documents.store_ref(self._reference, found.digest)
        return found

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """See `ImageSource.open_blob`."""
        return self._image.open_blob(descriptor)

    def open_beside(self, suffix: str) -> ImageSource | None:
        """See `ImageSource.open_beside`; that one is not kept."""
        return self._image.open_beside(suffix)

    async def fetch_referrers(self, digest: str, artifact_type: str) -> "Sequence[Referrer]":
        """See `ImageSource.fetch_referrers`; they may change, and are not kept."""
        return await self._image.fetch_referrers(digest, artifact_type)

    async def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """See `ImageSource.fetch_blob`."""
        kept = self._documents.load(descriptor.digest)
        if kept is not None:
            return kept.body
        body = await self._image.fetch_blob(descriptor)
        self._documents.store(FetchedManifest(body, descriptor.media_type, descriptor.digest))
        return body
