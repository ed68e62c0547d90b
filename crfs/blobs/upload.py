"""A blob on its way to a registry, of which nobody knows yet what it will be: sent in chunks (distribution-spec,
"pushing a blob in chunks"), each resumed where it was cut. Fetch loop only.
"""

import logging
import re

from crfs.blobs.endpoint import RegistryEndpoint
from crfs.blobs.http import Http, Response
from crfs.blobs.transport import TransientError
from crfs.errors import CrfsError, NotFoundError, TransportError

logger = logging.getLogger(__name__)

# what is sent in one request, and held in memory until the registry has it
CHUNK = 8 << 20
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})", re.ASCII)
_TYPE = {"Content-Type": "application/octet-stream"}


class BlobUpload:
    """One upload, one writer: write() in order, then finish(), or else cancel(). AuthError, TransportError."""

    def __init__(self, endpoint: RegistryEndpoint, http: Http, location: str) -> None:
        self._endpoint = endpoint
        self._http = http
        self._location = location
        self._waiting = bytearray()
        self._sent = 0

    async def write(self, data: bytes) -> None:
        """Add to the blob; sent when there is enough of it."""
        self._waiting += data
        while len(self._waiting) >= CHUNK:
            piece = bytes(self._waiting[:CHUNK])
            del self._waiting[:CHUNK]
            await self._send(piece)

    async def finish(self, digest: str) -> None:
        """Send the rest, and have the registry verify and keep it."""
        if self._waiting:
            await self._send(bytes(self._waiting))
            self._waiting.clear()

        async def close() -> None:
            place = f"{self._location}{'&' if '?' in self._location else '?'}digest={digest}"
            headers = {**_TYPE, "Content-Length": "0"}
            patience = self._http.limits.span_seconds(self._sent)
            async with self._endpoint.open(
                "PUT", place, headers=headers, body=b"", read_seconds=patience
            ) as response:
                await self._endpoint.check(response, 201)

        await self._http.retrying(close)

    async def cancel(self) -> None:
        """Tell the registry that there will be no more; whether it cares does not matter."""
        try:
            async with self._endpoint.open("DELETE", self._location) as response:
                await self._endpoint.check(response, 204, 202, 200, 404, 405)
        except CrfsError as error:
            logger.info("%s", error)

    async def _send(self, piece: bytes) -> None:
        """Send a chunk, as much of it at a time as gets through."""
        end = self._sent + len(piece)
        retries = self._http.retries()
        while self._sent < end:
            try:
                await self._patch(piece[len(piece) - (end - self._sent) :])
                self._sent = end
            except TransientError as error:
                before = self._sent
                await retries.wait(error)
                self._sent = min(max(await self._ask(before), before), end)
                if self._sent > before:
                    retries.progressed()

    async def _patch(self, data: bytes) -> None:
        headers = {
            **_TYPE,
            "Content-Length": str(len(data)),
            "Content-Range": f"{self._sent}-{self._sent + len(data) - 1}",
        }
        patience = self._http.limits.span_seconds(len(data))
        async with self._endpoint.open(
            "PATCH", self._location, headers=headers, body=data, read_seconds=patience
        ) as response:
            if response.status == 416:
                raise TransientError(f"{response.what}: it has other bytes than were sent")
            await self._endpoint.check(response, 202, 204)
            self._move(response)

    async def _ask(self, least: int) -> int:
        """How many bytes have arrived; `least` where the registry does not say."""

        async def ask() -> int:
            async with self._endpoint.open("GET", self._location) as response:
                await self._endpoint.check(response, 204, 202)
                self._move(response)
                found = _RANGE.fullmatch(response.headers.get("Range", ""))
                # also of an upload that has nothing yet, registries say 0-0
                return int(found[1]) + 1 if found and found[1] != "0" else least

        try:
            return await self._http.retrying(ask)
        except NotFoundError as error:
            raise TransportError(f"the registry has lost an upload: {error}") from error

    def _move(self, response: Response) -> None:
        location = response.headers.get("Location")
        if location:
            self._location = self._endpoint.resolve(response, location)
