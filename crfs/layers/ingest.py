"""A layer that can't be read lazily: fetched whole, checked while it streams, kept as an uncompressed tar.

The coroutine runs on the fetch loop; decompression and hashing run in the pool that it is handed.
"""

import functools
import hashlib
from concurrent.futures import Executor
from pathlib import Path
from typing import IO

from msgspec import Struct

from crfs.blobs.blob import Blob
from crfs.blobs.fetchloop import pooled
from crfs.blobs.store import Store
from crfs.errors import DigestMismatch, FormatError
from crfs.formats.digest import parse_digest
from crfs.layers.layer import Format, Layer, Trust
from crfs.layers.tarindex import index_tar
from crfs.layers.unpack import Unpacker


class Ingested(Struct, frozen=True):
    """A whole layer in the cache: its tar, how the blob was compressed, and the tar's digest."""

    tar: Path
    format: Format
    diff_id: str
    size: int


class _Intake:
    """Takes a blob in pieces: hashes it, decompresses it, hashes and writes the tar."""

    def __init__(self, out: IO[bytes], digest: str | None, diff_id: str | None) -> None:
        self._out = out
        self._blob_hash = parse_digest(digest).hasher() if digest else None
        self._tar_algorithm = parse_digest(diff_id).algorithm if diff_id else "sha256"
        self._tar_hash = hashlib.new(self._tar_algorithm)
        self._unpacker = Unpacker(self)
        self.size = 0

    @property
    def format(self) -> Format:
        """How the blob is compressed; finish() first."""
        return self._unpacker.format

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the compressed blob. FormatError if it does not decompress."""
        self.size += len(piece)
        if self._blob_hash:
            self._blob_hash.update(piece)
        self._unpacker.feed(piece)

    def write(self, part: bytes, /) -> int:
        """Take the next piece of the tar: for the unpacker."""
        self._tar_hash.update(part)
        return self._out.write(part)

    def finish(self, digest: str | None, diff_id: str | None) -> str:
        """Check both digests, where they are known; the tar's digest."""
        self._unpacker.flush()
        if self._blob_hash and digest and self._blob_hash.hexdigest() != parse_digest(digest).hex:
            raise DigestMismatch("the layer's bytes do not match its digest")
        self._unpacker.finish()
        found = f"{self._tar_algorithm}:{self._tar_hash.hexdigest()}"
        if diff_id and found != diff_id:
            raise DigestMismatch(f"the layer's tar is {found}, but the image's config says {diff_id}")
        return found


async def fetch_whole(
    blob: Blob, digest: str | None, diff_id: str | None, store: Store, pool: Executor
) -> Ingested:
    """Fetch a layer into the cache. A known digest or diff_id that does not match is a DigestMismatch.

    FormatError for a stream that does not decompress; what `Blob.iter_body` raises.
    """
    with store.staged_layer() as staged:
        intake = _Intake(staged, digest, diff_id)
        try:
            async for piece in blob.iter_body():
                await pooled(pool, functools.partial(intake.feed, piece))
            found = await pooled(pool, lambda: intake.finish(digest, diff_id))
        except (FormatError, DigestMismatch) as error:
            raise type(error)(f"{blob.name}: {error}") from error
        tar = await pooled(pool, lambda: store.publish_layer(staged, found))
    return Ingested(tar, intake.format, found, intake.size)


async def open_whole(
    blob: Blob, digest: str | None, diff_id: str | None, reason: str, store: Store, pool: Executor
) -> Layer:
    """A layer out of the cache, where it is hashed once more, or fetched into it.

    `reason` says why it is not read lazily. What fetch_whole() raises; FormatError where the tar is damaged.
    """
    tar = await pooled(pool, lambda: store.find_layer(diff_id)) if diff_id else None
    format_, size = Format.TAR, None
    if tar is None:
        whole = await fetch_whole(blob, digest, diff_id, store, pool)
        tar, format_, size = whole.tar, whole.format, whole.size
    try:
        index = await pooled(pool, functools.partial(index_tar, tar, blob.name))
    except FormatError:
        store.drop_layer(tar)
        raise
    trust = Trust.WHOLE if digest else Trust.NONE
    return Layer(digest or blob.name, format_, trust, index, blob, size, tar=tar, reason=reason)
