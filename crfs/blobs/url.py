"""A single layer blob on a web server (`https://`, `http://`). Fetch loop only."""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from crfs.blobs.http import Http, Response
from crfs.blobs.resource import HttpResource
from crfs.errors import AuthError
from crfs.formats.reference import UrlSource


def basic_header(username: str, password: str) -> str:
    """The Authorization header of HTTP Basic (RFC 7617), in UTF-8."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class UrlBlob:
    """The resource at a URL. The URL's own userinfo is all that is ever sent as credentials, to its origin."""

    def __init__(
        self, source: UrlSource, http: Http, *, size: int | None = None, verify: bool = True
    ) -> None:
        self._source = source
        self._http = http
        self._verify = verify
        self._authorizer = _UrlAuthorizer(source) if source.username is not None else None
        # nothing names the bytes by digest: another ETag would be another blob
        self._resource = HttpResource(http, str(source), self._open, size, pinned=True)

    @property
    def name(self) -> str:
        return str(self._source)

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        return await self._resource.fetch_range(start, end)

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


class _UrlAuthorizer:
    """The URL's userinfo as HTTP Basic, sent unasked as curl does."""

    def __init__(self, source: UrlSource) -> None:
        self._header = basic_header(source.username or "", source.password or "")
        self._name = str(source)

    async def authorization(self) -> str | None:
        return self._header

    async def renew(self, status: int, challenges: Sequence[str], sent: str | None) -> bool:
        raise AuthError(f"{self._name}: the server refuses the URL's user name and password ({status})")
