"""What the floors above are handed: one blob, and one image's manifests and blobs. No I/O here.

Coroutines run on the fetch loop's thread; everything else may be called from any thread.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

from crfs.formats.manifest import Descriptor

if TYPE_CHECKING:
    from crfs.formats.referrers import Referrer

# is handed bytes as they come; who waits in it holds up the transfer
Sink = Callable[[bytes], Awaitable[None]]
# is handed the blob offset of the bytes too
PlacedSink = Callable[[int, bytes], None]


class FetchedManifest(Struct, frozen=True):
    """A manifest or index as it was served; `digest` is that of `body`, verified if asked by digest."""

    body: bytes
    media_type: str | None
    digest: str


class Blob(Protocol):
    """The bytes of one blob. They are not verified here: who has a digest for a span checks it."""

    @property
    def name(self) -> str:
        """Fit for messages and log lines: registry, repository and digest, or URL, or path; no secrets.

        Blobs of the same name have the same bytes.
        """
        ...

    async def fetch_range(self, start: int, end: int) -> bytes:
        """Exactly the `end - start` bytes at [start, end) of the blob.

        TransportError where they can't be had (also: the blob ends before `end`), NotFoundError, AuthError.
        ValueError unless 0 <= start <= end.
        """
        ...

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """The same bytes, handed to `sink` in order as they come. What was handed over before a failure is right."""
        ...

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """The last min(size, total) bytes, and the total in bytes; one request where the server allows it."""
        ...

    def iter_body(self) -> AsyncIterator[bytes]:
        """The whole blob in order, in pieces of any size. A broken transfer is resumed where it broke."""
        ...

    def close(self) -> None:
        """Lets go of what the blob holds (a file descriptor); harmless when called twice; any thread."""
        ...


@runtime_checkable
class SeveralRanges(Protocol):
    """A blob that may be asked for several ranges at once."""

    @property
    def gives_several(self) -> bool:
        """False once it is known that the server does not."""
        ...

    async def stream_ranges(self, ranges: Sequence[tuple[int, int]], sink: PlacedSink) -> None:
        """Hand to `sink` what comes of ranges [start, end), ascending, in one request; each from its start on.

        What a server does not give, for whatever reason, is left out without a word.
        """
        ...


class ImageSource(Protocol):
    """One image: its manifests, and the blobs that they name."""

    @property
    def name(self) -> str:
        """Fit for messages and log lines; no secrets."""
        ...

    async def fetch_manifest(self, digest: str | None = None) -> FetchedManifest:
        """The manifest (or index) `digest`, verified; None: the one that the reference names.

        NotFoundError, AuthError, TransportError, DigestMismatch; FormatError for one that is too long.
        """
        ...

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """The blob that a descriptor names. Nothing is fetched yet."""
        ...

    def open_beside(self, suffix: str) -> "ImageSource | None":
        """The image whose tag is this one's and `suffix`; None where this one has no tag."""
        ...

    async def fetch_referrers(self, digest: str, artifact_type: str) -> "Sequence[Referrer]":
        """What is said to refer to the manifest with that digest, at least all that are of this type."""
        ...

    async def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """A small blob (a config) whole, verified against the descriptor's digest and size."""
        ...
