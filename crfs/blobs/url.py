"""A single layer blob on a web server (`https://`, `http://`). Fetch loop only."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager

from crfs.blobs.basic import BasicAuthorizer
from crfs.blobs.blob import Sink
from crfs.blobs.http import Http, Response
from crfs.blobs.resource import HttpResource
from crfs.formats.reference import UrlSource


class UrlBlob:
    """The resource at a URL. The only credentials ever sent are the URL's own userinfo, to its origin."""

    def __init__(
        self, source: UrlSource, http: Http, *, size: int | None = None, verify: bool = True
    ) -> None:
        self._source = source
        self._http = http
        self._verify = verify
        self._authorizer = None
        if source.username is not None:
            self._authorizer = BasicAuthorizer(source.username, source.password or "")
        # nothing names the bytes by digest: another ETag would be another blob
        self._resource = HttpResource(http, str(source), self._open, size, pinned=True)

    @property
    def name(self) -> str:
        return str(self._source)

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        return await self._resource.fetch_range(start, end)

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """See `Blob.stream_range`."""
        await self._resource.stream_range(start, end, sink)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """See `Blob.fetch_tail`."""
        return await self._resource.fetch_tail(size)

    def iter_body(self) -> AsyncGenerator[bytes, None]:
        """See `Blob.iter_body`."""
        return self._resource.iter_body()

    def close(self) -> None:
        """Nothing is held."""

    def _open(self, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Response]:
        return self._http.open(
            "GET",
            self._source.url,
            headers=headers,
            authorizer=self._authorizer,
            verify=self._verify,
            downgrade=not self._verify,
        )
