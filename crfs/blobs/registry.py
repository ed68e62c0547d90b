"""An image in a registry (distribution-spec), by way of registries.conf's mirrors. Fetch loop only.

Mirrors are asked first and in order; whoever fails, for whatever reason, is followed by the next. The last is
the registry that the reference names, whose error is the one that is reported.
"""

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from crfs.blobs.blob import FetchedManifest, PlacedSink, Sink
from crfs.blobs.endpoint import Access, RegistryEndpoint
from crfs.blobs.fetchloop import again_if_damaged
from crfs.blobs.http import Response
from crfs.blobs.referrers import fetch_referrers
from crfs.blobs.registriesconf import RegistriesConf
from crfs.blobs.resource import HttpResource
from crfs.blobs.transport import RetryPolicy
from crfs.errors import CrfsError, FormatError, TransportError
from crfs.formats.digest import parse_digest, sha256_digest, verify
from crfs.formats.manifest import CONFIG_MAX, MANIFEST_MAX, Descriptor
from crfs.formats.mediatypes import ACCEPT_MANIFESTS, is_foreign
from crfs.formats.reference import ImageReference, mask_url
from crfs.formats.referrers import Referrer

logger = logging.getLogger(__name__)

# how patient to be with a mirror: the next one may answer at once
MIRROR_RETRY = RetryPolicy(attempts=2, total_seconds=15.0)

_T = TypeVar("_T")
_A = TypeVar("_A")


class RegistryImage:
    """The image that `reference` names; nothing is sent before the first fetch. UsageError if blocked.

    `retry` is the policy for the registry itself where it is not the session's.
    """

    def __init__(
        self,
        reference: ImageReference,
        access: Access,
        registries: RegistriesConf,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._reference = reference
        self._access = access
        self._registries = registries
        self._endpoints = [RegistryEndpoint(found, access) for found in registries.endpoints(reference)]
        self._retries = [MIRROR_RETRY] * (len(self._endpoints) - 1) + [retry or access.http.retry]
        self._order = list(range(len(self._endpoints)))

    @property
    def name(self) -> str:
        return self._reference.text

    async def fetch_manifest(self, digest: str | None = None) -> FetchedManifest:
        """See `ImageSource.fetch_manifest`."""
        wanted = digest or self._reference.digest
        identifier = wanted or self._reference.identifier

        async def fetch(number: int) -> FetchedManifest:
            endpoint = self._endpoints[number]
            attempt = _ManifestFetch(endpoint, identifier, wanted)
            retried = partial(self._access.http.retrying, attempt, self._retries[number])
            return await again_if_damaged(retried)

        return await first_of(self._order, fetch)

    def open_blob(self, descriptor: Descriptor) -> "RegistryBlob":
        """See `ImageSource.open_blob`; a foreign layer's `urls` come before the registry, else after it."""
        name = f"{self._reference.name}@{descriptor.digest}"
        own = [self._open_resource(number, descriptor) for number in self._order]
        urls = [url for url in descriptor.urls if url.startswith(("https://", "http://"))]
        elsewhere = [self._open_elsewhere(url, descriptor) for url in urls]
        resources = elsewhere + own if is_foreign(descriptor.media_type) else own + elsewhere
        return RegistryBlob(name, resources)

    def open_beside(self, suffix: str) -> "RegistryImage | None":
        """See `ImageSource.open_beside`."""
        if self._reference.tag is None:
            return None
        beside = replace(self._reference, tag=self._reference.tag + suffix, digest=None)
        return RegistryImage(beside, self._access, self._registries)

    async def fetch_referrers(self, digest: str, artifact_type: str) -> Sequence[Referrer]:
        """See `ImageSource.fetch_referrers`."""

        async def fetch(number: int) -> Sequence[Referrer]:
            find = partial(fetch_referrers, self._endpoints[number], digest, artifact_type)
            return await self._access.http.retrying(find, self._retries[number])

        return await first_of(list(self._order), fetch)

    async def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """See `ImageSource.fetch_blob`."""
        if descriptor.size > CONFIG_MAX:
            raise FormatError(
                f"{self.name}: {descriptor.digest} is too long for a config: {descriptor.size} B"
            )
        return await self.open_blob(descriptor).fetch_verified(descriptor)

    def _open_resource(self, number: int, descriptor: Descriptor) -> HttpResource:
        endpoint = self._endpoints[number]
        opener = _BlobOpener(self._access, endpoint, str(parse_digest(descriptor.digest)))
        name = f"{endpoint.name}@{descriptor.digest}"
        return HttpResource(self._access.http, name, opener, descriptor.size, retry=self._retries[number])

    def _open_elsewhere(self, url: str, descriptor: Descriptor) -> HttpResource:
        def opener(headers: Mapping[str, str]) -> contextlib.AbstractAsyncContextManager[Response]:
            return self._access.http.open("GET", url, headers=headers, downgrade=True)

        return HttpResource(self._access.http, mask_url(url), opener, descriptor.size)


class RegistryBlob:
    """One blob, at all the places that have it (see `Blob`)."""

    def __init__(self, name: str, resources: Sequence[HttpResource]) -> None:
        self._name = name
        self._order = list(resources)

    @property
    def name(self) -> str:
        return self._name

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        return await first_of(self._order, lambda resource: resource.fetch_range(start, end))

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """See `Blob.stream_range`; where one place gives up, the next goes on from the same byte."""
        position = start

        async def count(piece: bytes) -> None:
            nonlocal position
            position += len(piece)
            await sink(piece)

        await first_of(self._order, lambda resource: resource.stream_range(position, end, count))

    @property
    def gives_several(self) -> bool:
        """See `SeveralRanges.gives_several`."""
        return self._order[0].gives_several

    async def stream_ranges(self, ranges: Sequence[tuple[int, int]], sink: PlacedSink) -> None:
        """See `SeveralRanges.stream_ranges`; the place that answered last is asked."""
        await self._order[0].stream_ranges(ranges, sink)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """See `Blob.fetch_tail`."""
        return await first_of(self._order, lambda resource: resource.fetch_tail(size))

    async def iter_body(self) -> AsyncGenerator[bytes, None]:
        """See `Blob.iter_body`; where one place gives up, the next goes on from the same byte."""
        position = 0
        left = list(self._order)
        while left:
            resource = left.pop(0)
            try:
                async with contextlib.aclosing(resource.iter_body(position)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except CrfsError as error:
                if not left:
                    raise
                logger.info("%s; going on elsewhere", error)

    async def fetch_verified(self, descriptor: Descriptor) -> bytes:
        """The whole blob, which is what the descriptor says in size and digest. For small ones."""

        async def fetch(resource: HttpResource) -> bytes:
            body = b"".join([piece async for piece in resource.iter_body()])
            verify(body, descriptor.digest, self._name)
            return body

        return await first_of(self._order, lambda resource: again_if_damaged(partial(fetch, resource)))

    def close(self) -> None:
        """Nothing is held."""


async def first_of(order: list[_A], attempt: Callable[[_A], Awaitable[_T]]) -> _T:
    """What the first of `order` that does not fail returns, moving it to the front; the last one's error."""
    *first, last = order
    for place in first:
        try:
            found = await attempt(place)
        except CrfsError as error:
            logger.info("%s; trying the next place", error)
        else:
            _prefer(order, place)
            return found
    found = await attempt(last)
    _prefer(order, last)
    return found


def _prefer(order: list[_A], place: _A) -> None:
    if order[0] is not place and place in order:
        order.remove(place)
        order.insert(0, place)


class _ManifestFetch:
    """One attempt at a manifest; `digest` is what it has to be, when it is asked for by digest."""

    def __init__(self, endpoint: RegistryEndpoint, identifier: str, digest: str | None) -> None:
        self._endpoint = endpoint
        self._path = f"manifests/{identifier}"
        self._digest = digest

    async def __call__(self) -> FetchedManifest:
        headers = {"Accept": ACCEPT_MANIFESTS}
        async with self._endpoint.open("GET", self._path, headers=headers) as response:
            await self._endpoint.check(response, 200)
            body = await response.read(MANIFEST_MAX)
            stated = self._digest or response.headers.get("Docker-Content-Digest")
            if stated:
                verify(body, stated, response.what)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise TransportError(f"{response.what}: sent with the Content-Encoding {encoding!r} unasked")
            return FetchedManifest(
                body, response.headers.get("Content-Type"), self._digest or sha256_digest(body)
            )


class _BlobOpener:
    """Asks a registry for one blob, and keeps the place that it redirects to (presigned) until that fails."""

    def __init__(self, access: Access, endpoint: RegistryEndpoint, digest: str) -> None:
        self._http = access.http
        self._endpoint = endpoint
        self._path = f"blobs/{digest}"
        self._location: str | None = None

    @contextlib.asynccontextmanager
    async def __call__(self, headers: Mapping[str, str]) -> AsyncIterator[Response]:
        async with contextlib.AsyncExitStack() as stack:
            response = await self._enter_location(stack, headers)
            if response is None:
                opened = self._endpoint.open("GET", self._path, headers=headers, downgrade=True)
                response = await stack.enter_async_context(opened)
                if response.moved and response.status in (200, 206):
                    self._location = response.url
                elif not response.moved:
                    await self._endpoint.check(response, 200, 206, 416)
            yield response

    async def _enter_location(
        self, stack: contextlib.AsyncExitStack, headers: Mapping[str, str]
    ) -> Response | None:
        """The answer of the remembered place; None when there is none, or it has expired."""
        location = self._location
        if location is None:
            return None
        inner = await stack.enter_async_context(contextlib.AsyncExitStack())
        opened = self._http.open(
            "GET", location, headers=headers, verify=self._endpoint.verify, downgrade=True
        )
        response = await inner.enter_async_context(opened)
        if response.status in (200, 206, 416, 429) or response.status >= 500:
            return response
        # 403 from S3, 400 or 404 from others: what was signed has expired
        logger.info("%s: %d; asking the registry for the place again", response.what, response.status)
        self._location = None
        await inner.aclose()
        return None
