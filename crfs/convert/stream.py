"""A layer's tar as a stream: fetched and decompressed ahead of whoever reads it, and verified at its end.

A thread of its own feeds a bounded queue; one other thread reads.
"""

import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import Self

from crfs.blobs.blob import Blob
from crfs.convert.targets import Submit
from crfs.errors import CrfsError, DigestMismatch
from crfs.formats.digest import parse_digest
from crfs.layers.unpack import Unpacker

# pieces of at most 1 MiB that may wait to be read
_AHEAD = 12
_GATHER = 512 << 10
_LOOK_SECONDS = 0.5


def iter_blob(submit: Submit, blob: Blob) -> Generator[bytes, None, None]:
    """The blob's bytes; what Blob.iter_body() raises. Not on the fetch loop."""
    body = blob.iter_body()
    try:
        while piece := submit(_gather(body)).result():
            yield piece
    finally:
        closing = getattr(body, "aclose", None)
        if closing is not None:
            submit(closing()).result()
        blob.close()


async def _gather(body: AsyncIterator[bytes]) -> bytes:
    """The next pieces in one, empty at the end: each costs a way from one thread to the other."""
    pieces, size = [], 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size >= _GATHER:
            break
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Stopped(Exception):
    """The reader has gone away."""


class LayerStream:
    """The tar of a blob that comes in `pieces`; a context manager.

    At its end the blob must have had the `digest` (None: nobody knows), else read() raises DigestMismatch: a reader
    has to read to the end before it believes anything. `seen` hears how many compressed bytes have come.
    """

    def __init__(
        self,
        pieces: Iterable[bytes],
        digest: str | None,
        name: str,
        seen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._pieces = pieces
        self._digest = digest
        self._name = name
        self._seen = seen
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._stopped = False
        self._piece = memoryview(b"")
        self._end: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._feed, name="crfs-source", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)
        self._thread.join()

    def write(self, part: bytes, /) -> int:
        """Take the next piece of the tar: for the unpacker, in the feeding thread."""
        if part:
            self._put(part)
        return len(part)

    def _put(self, item: bytes | BaseException) -> None:
        while not self._stopped:
            try:
                self._queue.put(item, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return
        raise _Stopped

    def _feed(self) -> None:
        try:
            self._feed_all()
            self._put(b"")
        except _Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - whoever reads gets it
            with contextlib.suppress(_Stopped):
                self._put(error)

    def _feed_all(self) -> None:
        unpacker = Unpacker(self)
        hasher = parse_digest(self._digest).hasher() if self._digest else None
        with contextlib.closing(iter(self._pieces)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                if hasher:
                    hasher.update(piece)
                unpacker.feed(piece)
                self._seen(len(piece))
        if hasher and self._digest and hasher.hexdigest() != parse_digest(self._digest).hex:
            raise DigestMismatch("the layer's bytes do not match its digest")
        unpacker.finish()

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes of the tar, fewer only at its end. Any CrfsError, naming the layer."""
        if size <= len(self._piece):
            found, self._piece = self._piece[:size], self._piece[size:]
            return bytes(found)
        parts = []
        while size and self._more():
            part, self._piece = self._piece[:size], self._piece[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def read_piece(self) -> bytes:
        """Some more bytes, empty at the end."""
        if not self._more():
            return b""
        found, self._piece = self._piece, memoryview(b"")
        return bytes(found)

    def drain(self) -> None:
        """Pass over what is left: what lies behind the end of the tar is verified, too."""
        while self.read_piece():
            pass

    def _more(self) -> bool:
        """Whether there is something at hand."""
        if not self._piece and not self._ended:
            item = self._queue.get()
            if isinstance(item, CrfsError):
                raise type(item)(
                    f"{self._name}: {item}" if self._name not in str(item) else str(item)
                ) from item
            if isinstance(item, BaseException):
                raise item
            self._ended = not item
            self._piece = memoryview(item)
        return bool(self._piece)
