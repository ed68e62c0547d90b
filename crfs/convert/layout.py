"""An OCI image layout to push to (image-spec, image-layout.md). Blocking I/O."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

import msgspec

from crfs.errors import FormatError
from crfs.formats.digest import parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor

_REF_NAME = "org.opencontainers.image.ref.name"


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int = 2
    manifests: list[Descriptor] = []


class LayoutPusher:
    """`image.Pusher` into `directory`, made where it doesn't exist; the image is called `name` there.

    Other images of the layout stay; one of the same name is replaced. One writer at a time.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name

    def push_blob(self, descriptor: Descriptor, content: BinaryIO) -> None:
        """See `image.Pusher`. FormatError where the content is of another size than its descriptor says."""
        path = self._blob_path(descriptor.digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with staged.open("wb") as file:
                shutil.copyfileobj(content, file)
                if file.tell() != descriptor.size:
                    raise FormatError(f"{descriptor.digest} has {file.tell()} bytes, not {descriptor.size}")
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)

    def push_manifest(self, body: bytes, media_type: str) -> None:
        """See `image.Pusher`."""
        path = self._blob_path(sha256_digest(body))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        entry = Descriptor(media_type, sha256_digest(body), len(body), annotations={_REF_NAME: self._name})
        self._add(entry)

    def _add(self, entry: Descriptor) -> None:
        index_path = self._directory / "index.json"
        index = msgspec.json.decode(index_path.read_bytes(), type=_Index) if index_path.exists() else _Index()
        others = [old for old in index.manifests if old.annotations.get(_REF_NAME) != self._name]
        staged = index_path.with_suffix(".new")
        staged.write_bytes(msgspec.json.encode(_Index(2, [*others, entry])))
        (self._directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        staged.replace(index_path)

    def _blob_path(self, digest: str) -> Path:
        parsed = parse_digest(digest)
        return self._directory / "blobs" / parsed.algorithm / parsed.hex
