"""Handlers of manifests: HEAD, GET with negotiation, PUT with validation, DELETE. Loop thread only."""

from aiohttp import web

from crfs.registry.accept import accepts
from crfs.registry.blobs import content_headers, is_current
from crfs.registry.bodies import receive_bounded
from crfs.registry.names import check_name, check_reference, is_digest
from crfs.registry.refusal import Refusal
from crfs.registry.storage import ManifestLink, Storage, StoredManifest, compute_digest
from crfs.registry.validation import Descriptor, Manifest, parse_manifest

# what the specification says every registry should take, and ours takes no more
MAX_MANIFEST = 4 << 20


class ManifestHandlers:
    """`/v2/NAME/manifests/REFERENCE`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD with the bytes that were pushed, never with a conversion: 200, 304 or 404."""
        name, reference = _parse_path(request)
        manifest = self._find(name, reference)
        if not accepts(request.headers.getall("Accept", ()), manifest.link.media_type):
            raise Refusal(
                404, "MANIFEST_UNKNOWN", f"{reference} is a {manifest.link.media_type}, not accepted"
            )
        headers = content_headers(manifest.digest)
        if is_current(request, manifest.digest):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=manifest.content, headers=headers | {"Content-Type": manifest.link.media_type}
        )

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Take a manifest whose blobs and manifests are here already: 201, 400, 404 or 413."""
        name, reference = _parse_path(request)
        content = await receive_bounded(request, MAX_MANIFEST)
        digest = _check_content(reference, content)
        manifest = parse_manifest(
            content, request.content_type if "Content-Type" in request.headers else None
        )
        self._check_references(name, manifest)
        link = ManifestLink(manifest.media_type, manifest.subject)
        tag = None if is_digest(reference) else reference
        self._storage.store_manifest(name, StoredManifest(digest, link, content), tag)
        return _created(name, digest, manifest)

    def _check_references(self, name: str, manifest: Manifest) -> None:
        """MANIFEST_BLOB_UNKNOWN where something is missing, MANIFEST_INVALID where it has another size."""
        for descriptor in manifest.blobs:
            blob = self._storage.find_blob(name, descriptor.digest)
            _check_size(descriptor, None if blob is None else blob.size)
        for descriptor in manifest.manifests:
            child = self._storage.find_manifest(name, descriptor.digest)
            _check_size(descriptor, None if child is None else len(child.content))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Drop a tag, or a manifest with all its tags: 202."""
        name, reference = _parse_path(request)
        manifest = self._find(name, reference)
        if is_digest(reference):
            self._storage.delete_manifest(name, manifest)
        else:
            self._storage.delete_tag(name, reference)
        return web.Response(status=202)

    def _find(self, name: str, reference: str) -> StoredManifest:
        manifest = self._storage.find_manifest(name, reference)
        if manifest is None:
            raise Refusal(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")
        return manifest


def _parse_path(request: web.Request) -> tuple[str, str]:
    return check_name(request.match_info["name"]), check_reference(request.match_info["reference"])


def _check_content(reference: str, content: bytes) -> str:
    """The digest to store `content` under: that of the reference, DIGEST_INVALID where it isn't one of it."""
    algorithm = reference.partition(":")[0] if is_digest(reference) else "sha256"
    digest = compute_digest(algorithm, content)
    if is_digest(reference) and digest != reference:
        raise Refusal(400, "DIGEST_INVALID", f"the manifest is {digest}, not {reference}")
    return digest


def _check_size(descriptor: Descriptor, size: int | None) -> None:
    if size is None:
        raise Refusal(404, "MANIFEST_BLOB_UNKNOWN", f"{descriptor.digest} is referred to, but not here")
    if size != descriptor.size:
        raise Refusal(
            400,
            "MANIFEST_INVALID",
            f"{descriptor.digest} has {size} bytes, its descriptor says {descriptor.size}",
        )


def _created(name: str, digest: str, manifest: Manifest) -> web.Response:
    headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
    if manifest.subject is not None:
        headers["OCI-Subject"] = manifest.subject
    return web.Response(status=201, headers=headers)
