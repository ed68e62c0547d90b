"""Where converted images go, as whoever writes one sees it; the kinds of place have modules of their own.

Blobs are written by the thread that makes them, blocking; the rest are coroutines of the fetch loop. An image is
there once its manifest is: whatever fails before leaves no name behind.
"""

import contextlib
import hashlib
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from crfs.errors import CrfsError, DigestMismatch
from crfs.formats.digest import parse_digest
from crfs.formats.reference import ImageReference

T = TypeVar("T")


class Submit(Protocol):
    """Runs a coroutine on the fetch loop."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> "Future[T]": ...


class BlobSink(Protocol):
    """A blob under way; one thread, which may block."""

    def write(self, data: bytes, /) -> object:
        """Add to it."""
        ...

    def finish(self, digest: str) -> None:
        """Keep it under its digest."""
        ...

    def abort(self) -> None:
        """Forget it; harmless after finish()."""
        ...


class Target(Protocol):
    """What an image is written to. Any CrfsError."""

    @property
    def name(self) -> str:
        """Fit for messages."""
        ...

    def has_blob(self, digest: str) -> bool:
        """Whether it is there already."""
        ...

    def mount_blob(self, digest: str, origin: ImageReference) -> bool:
        """Take it out of another repository of the same registry, where that is possible."""
        ...

    def open_sink(self) -> BlobSink:
        """Begin a blob."""
        ...

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """Keep a manifest or index; with `name`, it is the one that the target's name stands for."""
        ...

    def beside(self, suffix: str) -> "Target":
        """The same place under a name with `suffix`. UnsupportedError where there is none."""
        ...

    def close(self) -> None:
        """All is written."""
        ...

    def abort(self) -> None:
        """Nothing of it is wanted."""
        ...


class NullTarget:
    """What a dry run writes to: everything is counted by others, nothing kept."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def name(self) -> str:
        return self._target.name

    def has_blob(self, digest: str) -> bool:
        """See `Target`."""
        return self._target.has_blob(digest)

    def mount_blob(self, _digest: str, _origin: ImageReference) -> bool:
        """See `Target`."""
        return False

    def open_sink(self) -> "NullSink":
        """See `Target`."""
        return NullSink()

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """See `Target`."""

    def beside(self, _suffix: str) -> "NullTarget":
        """See `Target`."""
        return self

    def close(self) -> None:
        """See `Target`."""
        self._target.abort()

    def abort(self) -> None:
        """See `Target`."""
        self._target.abort()


class NullSink:
    """Keeps nothing."""

    def write(self, data: bytes, /) -> None:
        """See `BlobSink`."""

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""

    def abort(self) -> None:
        """See `BlobSink`."""


def put_bytes(target: Target, data: bytes, digest: str) -> bool:
    """Write a small blob unless it is there; whether it was needed."""
    if target.has_blob(digest):
        return False
    if hashlib.sha256(data).hexdigest() != parse_digest(digest).hex:
        raise DigestMismatch(f"{target.name}: a blob to write is not {digest}")
    sink = target.open_sink()
    try:
        sink.write(data)
        sink.finish(digest)
    except BaseException:
        sink.abort()
        raise
    return True


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """CrfsError, naming the path, where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise CrfsError(f"{path}: {error.strerror or error}") from error
