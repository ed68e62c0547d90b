"""Images written to one tar: of an OCI layout, or what `docker load` reads."""

import contextlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from crfs.convert.layout import index_entry
from crfs.convert.targets import Target, disk_errors, put_bytes
from crfs.errors import UnsupportedError
from crfs.formats.digest import parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor, Manifest, parse_manifest
from crfs.formats.reference import ImageReference


class _Saved(msgspec.Struct, rename="pascal"):
    config: str
    repo_tags: list[str]
    layers: list[str]


class ArchiveTarget:
    """One tar: of an OCI layout, or with `docker`, what `docker load` reads. It appears when it is complete."""

    def __init__(self, path: Path, name: str | None, *, docker: bool) -> None:
        self._path = path
        self._ref = name
        self._docker = docker
        self._staged = path.with_name(f".{path.name}.{os.getpid()}")
        self._blobs: set[str] = set()
        self._entries: list[Descriptor] = []
        self._image: tuple[Manifest, bytes] | None = None
        self._configs: dict[str, bytes] = {}
        with disk_errors(path):
            self._file: BinaryIO = self._staged.open("x+b")

    @property
    def name(self) -> str:
        return f"{'docker' if self._docker else 'oci'}-archive:{self._path}"

    def has_blob(self, digest: str) -> bool:
        """See `Target`."""
        return digest in self._blobs

    def mount_blob(self, _digest: str, _origin: ImageReference) -> bool:
        """See `Target`."""
        return False

    def open_sink(self) -> "_MemberSink":
        """See `Target`. One at a time: the tar is written as the blobs come."""
        return _MemberSink(self._file, self._path, self._keep)

    def _keep(self, digest: str) -> str:
        self._blobs.add(digest)
        return self._member(digest)

    def _member(self, digest: str) -> str:
        parsed = parse_digest(digest)
        return f"blobs/{parsed.algorithm}/{parsed.hex}"

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """See `Target`."""
        digest = sha256_digest(body)
        if not self._docker:
            put_bytes(self, body, digest)
        parsed = parse_manifest(body, media_type)
        if self._docker and not isinstance(parsed, Manifest):
            raise UnsupportedError(f"{self.name}: holds one image, not an index of several")
        if name and isinstance(parsed, Manifest):
            self._image = (parsed, body)
        if name:
            self._entries.append(index_entry(self._ref, Descriptor(media_type, digest, len(body))))

    def beside(self, suffix: str) -> "Target":
        """See `Target`."""
        raise UnsupportedError(f"{self.name}: has no place for an external TOC")

    def close(self) -> None:
        """See `Target`."""
        with disk_errors(self._path):
            if self._docker:
                self._add("manifest.json", self._docker_manifest())
            else:
                index = {"schemaVersion": 2, "manifests": self._entries}
                self._add("index.json", msgspec.json.encode(index))
                self._add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            self._file.write(bytes(1024))
            self._file.close()
            self._staged.replace(self._path)

    def _docker_manifest(self) -> bytes:
        assert self._image is not None
        manifest = self._image[0]
        name = self._ref
        tags = [] if name is None else [name if ":" in name.rpartition("/")[2] else f"{name}:latest"]
        layers = [self._member(layer.digest) for layer in manifest.layers]
        return msgspec.json.encode([_Saved(self._member(manifest.config.digest), tags, layers)])

    def _add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))

    def abort(self) -> None:
        """See `Target`."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._staged.unlink(missing_ok=True)


class _MemberSink:
    """A blob in a tar: its header is written last, where there was room left for it."""

    def __init__(self, file: BinaryIO, path: Path, keep: Callable[[str], str]) -> None:
        self._file = file
        self._path = path
        self._keep = keep
        self._start = file.tell()
        self._size = 0
        self._done = False
        file.write(bytes(512))

    def write(self, data: bytes, /) -> None:
        """See `BlobSink`."""
        with disk_errors(self._path):
            self._file.write(data)
            self._size += len(data)

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""
        info = tarfile.TarInfo(self._keep(digest))
        info.size = self._size
        with disk_errors(self._path):
            self._file.write(bytes(-self._size % 512))
            end = self._file.tell()
            self._file.seek(self._start)
            self._file.write(info.tobuf(tarfile.GNU_FORMAT))
            self._file.seek(end)
        self._done = True

    def abort(self) -> None:
        """See `BlobSink`."""
        if not self._done:
            with contextlib.suppress(OSError, ValueError):
                self._file.seek(self._start)
                self._file.truncate()
