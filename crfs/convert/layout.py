"""An OCI image layout to push to (image-spec, image-layout.md). Blocking I/O, in coroutines."""

import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import msgspec

from crfs.blobs.layout import REF_NAME
from crfs.formats.digest import check_hash, parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor

_PIECE = 1 << 20


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int = 2
    manifests: list[Descriptor] = []


class LayoutPusher:
    """`image.Pusher` into `directory`, which is made where it doesn't exist.

    Other images of the layout stay; one of the same tag is replaced. One writer at a time.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def push_blob(self, data: bytes | Path, digest: str) -> bool:
        """See `image.Pusher`. DigestMismatch where the content is not the one that `digest` names."""
        path = self.blob_path(digest)
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with staged.open("wb") as file:
                _copy_verified(data, file, digest)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        return True

    async def push_manifest(self, body: bytes, media_type: str, tag: str | None = None) -> str:
        """See `image.Pusher`."""
        digest = sha256_digest(body)
        await self.push_blob(body, digest)
        if tag is not None:
            self.add(tag, Descriptor(media_type, digest, len(body)))
        return digest

    def add(self, ref: str | None, image: Descriptor) -> None:
        """Name an image in the index, in place of the one that was called so; None: of the one without a name."""
        index_path = self._directory / "index.json"
        index = msgspec.json.decode(index_path.read_bytes(), type=_Index) if index_path.exists() else _Index()
        others = [old for old in index.manifests if old.annotations.get(REF_NAME) != ref]
        staged = index_path.with_suffix(".new")
        staged.write_bytes(msgspec.json.encode(_Index(2, [*others, index_entry(ref, image)])))
        (self._directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        staged.replace(index_path)

    def blob_path(self, digest: str) -> Path:
        """Where a blob lies; FormatError for what is no digest."""
        parsed = parse_digest(digest)
        return self._directory / "blobs" / parsed.algorithm / parsed.hex


def index_entry(ref: str | None, image: Descriptor) -> Descriptor:
    """What an index.json says of an image that is called `ref`."""
    return msgspec.structs.replace(image, annotations={} if ref is None else {REF_NAME: ref})


def _copy_verified(data: bytes | Path, out: BinaryIO, digest: str) -> None:
    hasher = parse_digest(digest).hasher()
    with BytesIO(data) if isinstance(data, bytes) else data.open("rb") as content:
        while piece := content.read(_PIECE):
            hasher.update(piece)
            out.write(piece)
    check_hash(hasher, digest, "the blob to push")
