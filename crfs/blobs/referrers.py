"""What refers to an image in a registry (distribution-spec, "Listing Referrers" and "Pushing Manifests with Subject").

Registries from before it have no such list: then it is an index under a tag made of the digest. Fetch loop only.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from urllib.parse import quote

from crfs.blobs.endpoint import RegistryEndpoint
from crfs.blobs.http import Response
from crfs.formats.manifest import MANIFEST_MAX
from crfs.formats.mediatypes import OCI_INDEX, OCI_MANIFEST, essence
from crfs.formats.referrers import Referrer, add_referrer, fallback_tag, parse_referrers


async def fetch_referrers(endpoint: RegistryEndpoint, digest: str, artifact_type: str) -> Sequence[Referrer]:
    """What refers to the manifest with that digest, at least all of this type. One attempt; any CrfsError."""
    path = f"referrers/{digest}?artifactType={quote(artifact_type, safe='')}"
    async with endpoint.open("GET", path, headers={"Accept": OCI_INDEX}) as response:
        if response.status == 200 and _is_index(response):
            return parse_referrers(await response.read(MANIFEST_MAX))
        if response.status not in (200, 400, 404, 405):
            await endpoint.check(response, 200)
    body = await _fetch_fallback(endpoint, digest)
    return parse_referrers(body) if body else ()


async def push_referrer(endpoint: RegistryEndpoint, body: bytes, entry: Referrer, subject: str) -> None:
    """Put an artifact's manifest, and have the list of its subject name it. One attempt; any CrfsError."""
    async with _put(endpoint, entry.digest, OCI_MANIFEST, body) as response:
        await endpoint.check(response, 200, 201, 202)
        if "OCI-Subject" in response.headers:
            return
    listed = add_referrer(await _fetch_fallback(endpoint, subject), entry)
    async with _put(endpoint, fallback_tag(subject), OCI_INDEX, listed) as response:
        await endpoint.check(response, 200, 201, 202)


async def _fetch_fallback(endpoint: RegistryEndpoint, digest: str) -> bytes | None:
    path = f"manifests/{fallback_tag(digest)}"
    async with endpoint.open("GET", path, headers={"Accept": OCI_INDEX}) as response:
        if response.status == 404:
            return None
        await endpoint.check(response, 200)
        return await response.read(MANIFEST_MAX) if _is_index(response) else None


def _put(
    endpoint: RegistryEndpoint, name: str, media_type: str, body: bytes
) -> AbstractAsyncContextManager[Response]:
    return endpoint.open("PUT", f"manifests/{name}", headers={"Content-Type": media_type}, body=body)


def _is_index(response: Response) -> bool:
    return essence(response.headers.get("Content-Type", "")) == OCI_INDEX
