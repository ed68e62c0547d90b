"""Blobs and manifests pushed to a registry (distribution-spec, push). Fetch loop only."""

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from crfs.blobs.endpoint import Access, RegistryEndpoint
from crfs.blobs.http import Response
from crfs.blobs.referrers import push_referrer
from crfs.blobs.registriesconf import RegistriesConf
from crfs.blobs.upload import BlobUpload
from crfs.errors import CrfsError, TransportError
from crfs.formats.digest import parse_digest, sha256_digest, verify
from crfs.formats.reference import ImageReference
from crfs.formats.referrers import Referrer

logger = logging.getLogger(__name__)


class RegistryPush:
    """Pushes to the repository that `reference` names: never to a mirror."""

    def __init__(self, reference: ImageReference, access: Access, registries: RegistriesConf) -> None:
        self._reference = reference
        self._http = access.http
        self._endpoint = RegistryEndpoint(registries.push_endpoint(reference), access, "pull,push")

    @property
    def name(self) -> str:
        """Fit for messages."""
        return self._reference.text

    async def push_blob(self, data: bytes | Path, digest: str) -> bool:
        """Uploads a blob (bytes, or a file's) unless the registry has it; True when it was uploaded.

        The registry verifies the digest. AuthError, NotFoundError, TransportError.
        """
        parse_digest(digest)
        if await self.has_blob(digest):
            return False
        size = len(data) if isinstance(data, bytes) else os.path.getsize(data)

        def opener() -> BinaryIO:
            return io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")

        await self._http.retrying(lambda: self._upload(opener, size, digest))
        return True

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has the blob."""

        async def ask() -> bool:
            async with self._endpoint.open("HEAD", f"blobs/{digest}") as response:
                if response.status == 404:
                    return False
                await self._endpoint.check(response, 200)
                return True

        return await self._http.retrying(ask)

    async def mount_blob(self, digest: str, origin: ImageReference) -> bool:
        """Have the registry take the blob out of another of its repositories; whether it did."""
        if origin.host != self._reference.host or origin.repository == self._reference.repository:
            return False
        path = f"blobs/uploads/?mount={digest}&from={quote(origin.repository, safe='')}"
        try:
            async with self._endpoint.open("POST", path, headers={"Content-Length": "0"}) as response:
                if response.status == 202:
                    await BlobUpload(self._endpoint, self._http, self._location(response)).cancel()
                return response.status == 201
        except CrfsError as error:
            logger.info("%s; the blob is sent", error)
            return False

    async def open_upload(self) -> BlobUpload:
        """Begin to send a blob of which the digest is not known yet."""

        async def begin() -> str:
            headers = {"Content-Length": "0"}
            async with self._endpoint.open("POST", "blobs/uploads/", headers=headers) as response:
                await self._endpoint.check(response, 202)
                return self._location(response)

        return BlobUpload(self._endpoint, self._http, await self._http.retrying(begin))

    async def push_manifest(self, body: bytes, media_type: str, tag: str | None = None) -> str:
        """Puts a manifest or index under `tag` (None: under its digest alone); the digest."""
        digest = sha256_digest(body)

        async def put() -> None:
            headers = {"Content-Type": media_type}
            path = f"manifests/{tag or digest}"
            async with self._endpoint.open("PUT", path, headers=headers, body=body) as response:
                await self._endpoint.check(response, 200, 201, 202)
                stated = response.headers.get("Docker-Content-Digest")
                if stated:
                    verify(body, stated, response.what)

        await self._http.retrying(put)
        return digest

    async def push_referrer(self, body: bytes, entry: Referrer, subject: str) -> None:
        """Puts the manifest of an artifact that refers to the manifest `subject`, so that it is found."""
        await self._http.retrying(lambda: push_referrer(self._endpoint, body, entry, subject))

    async def _upload(self, opener: Callable[[], BinaryIO], size: int, digest: str) -> None:
        """One POST for a place, one PUT of everything."""
        async with self._endpoint.open("POST", "blobs/uploads/", headers={"Content-Length": "0"}) as response:
            await self._endpoint.check(response, 202)
            location = self._location(response)
        place = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        patience = self._http.limits.span_seconds(size)
        async with self._endpoint.open(
            "PUT", place, headers=headers, body=opener, read_seconds=patience
        ) as response:
            await self._endpoint.check(response, 201)

    def _location(self, response: Response) -> str:
        location = response.headers.get("Location")
        if not location:
            raise TransportError(f"{response.what}: names no place to upload to")
        return self._endpoint.resolve(response, location)
