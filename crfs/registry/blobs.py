"""Handlers of finished blobs: HEAD, GET with ranges, DELETE. Loop thread only."""

from aiohttp import web

from crfs.registry.bodies import Meter, send_span
from crfs.registry.files import Source
from crfs.registry.names import check_digest, check_name
from crfs.registry.ranges import Span, parse_range
from crfs.registry.refusal import Refusal
from crfs.registry.storage import Storage


class BlobHandlers:
    """`/v2/NAME/blobs/DIGEST`."""

    def __init__(self, storage: Storage, meter: Meter) -> None:
        self._storage = storage
        self._meter = meter

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD; 200, 206, 304, 416 or BLOB_UNKNOWN."""
        name, digest = _parse_path(request)
        source = self._storage.find_blob(name, digest)
        if source is None:
            raise _blob_unknown(name, digest)
        if is_current(request, digest):
            return web.Response(status=304, headers=content_headers(digest))
        span = parse_range(_wanted_range(request, digest), source.size)
        response = _head(digest, source, span)
        await send_span(request, response, source, span or Span(0, source.size), self._meter)
        return response

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Answer DELETE; 202 or BLOB_UNKNOWN. Manifests that refer to the blob stay."""
        name, digest = _parse_path(request)
        if not self._storage.delete_blob(name, digest):
            raise _blob_unknown(name, digest)
        return web.Response(status=202)


def _parse_path(request: web.Request) -> tuple[str, str]:
    return check_name(request.match_info["name"]), check_digest(request.match_info["digest"])


def _wanted_range(request: web.Request, digest: str) -> str | None:
    """The Range header where it counts: of a GET, and of the representation that If-Range names."""
    if request.method != "GET" or request.headers.get("If-Range", etag(digest)) != etag(digest):
        return None
    return request.headers.get("Range")


def _head(digest: str, source: Source, span: Span | None) -> web.StreamResponse:
    headers = content_headers(digest) | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if span is None:
        return web.StreamResponse(status=200, headers=headers)
    headers["Content-Range"] = f"bytes {span.start}-{span.last}/{source.size}"
    return web.StreamResponse(status=206, headers=headers)


def etag(digest: str) -> str:
    """The entity tag of immutable content."""
    return f'"{digest}"'


def content_headers(digest: str) -> dict[str, str]:
    """Headers that name the content of a response."""
    return {"Docker-Content-Digest": digest, "ETag": etag(digest)}


def is_current(request: web.Request, digest: str) -> bool:
    """Whether the client says that it has this content (If-None-Match)."""
    tags = request.headers.get("If-None-Match", "").split(",")
    return etag(digest) in (tag.strip().removeprefix("W/") for tag in tags)


def _blob_unknown(name: str, digest: str) -> Refusal:
    return Refusal(404, "BLOB_UNKNOWN", f"{name} has no blob {digest}")
