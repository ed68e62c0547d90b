"""Handlers of blobs on their way: POST, PATCH, PUT, GET and DELETE of an upload. Loop thread only.

An upload has one writer at a time; a second one is told so (409) and may come back.
"""

import asyncio

from aiohttp import web

from crfs.errors import DigestMismatch
from crfs.registry.bodies import receive, upload_range
from crfs.registry.files import Appender, AppenderBusy
from crfs.registry.names import check_digest, check_name
from crfs.registry.ranges import parse_chunk
from crfs.registry.refusal import Refusal
from crfs.registry.storage import Storage


class UploadHandlers:
    """`/v2/NAME/blobs/uploads/` and `/v2/NAME/blobs/uploads/UPLOAD`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Mount another repository's blob, take a whole one at once, or start an upload: 201, 201 or 202."""
        name = check_name(request.match_info["name"])
        mounted = self._mount(request, name)
        if mounted is not None:
            return _created(name, mounted)
        digest = check_digest(request.query["digest"]) if "digest" in request.query else None
        upload = self._storage.start_upload(name)
        if digest is None:
            return _progress(202, name, upload, 0)
        try:
            return await self._finish(request, name, upload, digest)
        finally:
            # the client was never told the upload's name, and can't come back to it
            self._storage.delete_upload(name, upload)

    def _mount(self, request: web.Request, name: str) -> str | None:
        """The digest that was mounted; None where none was asked for, or the origin hasn't got it."""
        if "mount" not in request.query:
            return None
        digest = check_digest(request.query["mount"])
        if "from" not in request.query:
            return None
        origin = check_name(request.query["from"])
        return digest if self._storage.mount_blob(origin, name, digest) else None

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """Take a chunk, or without Content-Range a stream of any length: 202, 400, 404, 409 or 416."""
        name, upload = _parse_path(request)
        with self._open(name, upload) as appender:
            await receive(request, appender, parse_chunk(request.headers.get("Content-Range")))
            return _progress(202, name, upload, appender.size)

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Take the last chunk, if any, and close the upload: 201. DIGEST_INVALID ends the upload, too."""
        name, upload = _parse_path(request)
        if "digest" not in request.query:
            raise Refusal(400, "DIGEST_INVALID", "the digest parameter is missing")
        return await self._finish(request, name, upload, check_digest(request.query["digest"]))

    async def _finish(self, request: web.Request, name: str, upload: str, digest: str) -> web.Response:
        with self._open(name, upload) as appender:
            await receive(request, appender, parse_chunk(request.headers.get("Content-Range")))
            try:
                await asyncio.to_thread(self._storage.commit_upload, appender, name, digest)
            except DigestMismatch as error:
                self._storage.delete_upload(name, upload)
                raise Refusal(400, "DIGEST_INVALID", str(error)) from error
        return _created(name, digest)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Tell how much has arrived: 204."""
        name, upload = _parse_path(request)
        size = self._storage.find_upload_size(name, upload)
        if size is None:
            raise _upload_unknown(name, upload)
        return _progress(204, name, upload, size)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Cancel the upload: 204."""
        name, upload = _parse_path(request)
        with self._open(name, upload):
            self._storage.delete_upload(name, upload)
        return web.Response(status=204)

    def _open(self, name: str, upload: str) -> Appender:
        try:
            appender = self._storage.open_upload(name, upload)
        except AppenderBusy as error:
            raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload") from error
        if appender is None:
            raise _upload_unknown(name, upload)
        return appender


def _parse_path(request: web.Request) -> tuple[str, str]:
    return check_name(request.match_info["name"]), request.match_info["upload"]


def _upload_unknown(name: str, upload: str) -> Refusal:
    return Refusal(404, "BLOB_UPLOAD_UNKNOWN", f"{name} has no upload {upload!r}")


def _created(name: str, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers=headers)


def _progress(status: int, name: str, upload: str, size: int) -> web.Response:
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload}",
        "Range": upload_range(size),
        "Docker-Upload-UUID": upload,
    }
    return web.Response(status=status, headers=headers)
