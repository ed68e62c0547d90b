"""Images in one tar: an OCI layout in it (`oci-archive:`), or what `docker save` writes (`docker-archive:`).

Nothing is unpacked: blobs are ranges of the file, so the tar must not be compressed. Small files are read on the loop.
"""

import hashlib
import os
import posixpath
import tarfile
from collections.abc import AsyncGenerator, Sequence

import msgspec

from crfs.blobs.blob import FetchedManifest, Sink
from crfs.blobs.localfile import PIECE, FileBlob
from crfs.errors import FormatError, NotFoundError, TransportError
from crfs.formats.digest import sha256_digest, verify
from crfs.formats.manifest import CONFIG_MAX, MANIFEST_MAX, Descriptor, parse_config
from crfs.formats.mediatypes import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from crfs.formats.reference import ArchiveReference
from crfs.formats.referrers import Referrer

_LINKS_MAX = 8
_MEDIA_TYPES = ((b"\x1f\x8b", OCI_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", OCI_LAYER_ZSTD))


class ArchiveFiles:
    """The regular files of a tar by name, symbolic links followed. FormatError, NotFoundError, TransportError."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._name = path
        self._members: dict[str, tarfile.TarInfo] | None = None

    def where(self, name: str) -> str:
        """A file's name, for messages."""
        return f"{self._name}: {name}"

    def load(self, name: str, limit: int) -> bytes:
        """A small file whole; FormatError if it is longer than `limit`."""
        info = self._find(name)
        if info.size > limit:
            raise FormatError(f"{self._name}: {name} is longer than {limit} bytes")
        with open(self._path, "rb") as file:
            file.seek(info.offset_data)
            return file.read(info.size)

    def open_blob(self, name: str, size: int | None = None) -> "MemberBlob":
        """One file; FormatError if it has not the `size` that it should have."""
        info = self._find(name)
        if size is not None and info.size != size:
            raise FormatError(f"{self._name}: {name} has {info.size} bytes, not {size}")
        return MemberBlob(FileBlob(self._path), f"{self._name}:{name}", info.offset_data, info.size)

    def _find(self, name: str) -> tarfile.TarInfo:
        members = self._list()
        info = members.get(name)
        for _ in range(_LINKS_MAX):
            if info is None or not (info.issym() or info.islnk()):
                break
            base = posixpath.dirname(info.name) if info.issym() else ""
            info = members.get(posixpath.normpath(posixpath.join(base, info.linkname)))
        if info is None or not info.isreg():
            raise NotFoundError(f"{self._name}: has no {name}")
        return info

    def _list(self) -> dict[str, tarfile.TarInfo]:
        if self._members is None:
            try:
                with tarfile.open(self._path, "r:") as tar:
                    self._members = {posixpath.normpath(info.name): info for info in tar}
            except FileNotFoundError as error:
                raise NotFoundError(f"{self._name}: no such file") from error
            except OSError as error:
                raise TransportError(f"{self._name}: {error.strerror}") from error
            except tarfile.TarError as error:
                raise FormatError(f"{self._name}: no uncompressed tar: {error}") from error
        return self._members


class MemberBlob:
    """A part of a file (see `Blob`)."""

    def __init__(self, file: FileBlob, name: str, start: int, size: int) -> None:
        self._file = file
        self._name = name
        self._start = start
        self._size = size

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        if end > self._size:
            raise TransportError(f"{self._name}: asked for bytes up to {end} of {self._size}")
        return await self._file.fetch_range(self._start + start, self._start + end)

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """See `Blob.stream_range`."""
        if end > self._size:
            raise TransportError(f"{self._name}: asked for bytes up to {end} of {self._size}")
        await self._file.stream_range(self._start + start, self._start + end, sink)

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """See `Blob.fetch_tail`."""
        return await self.fetch_range(max(0, self._size - size), self._size), self._size

    async def iter_body(self) -> AsyncGenerator[bytes, None]:
        """See `Blob.iter_body`."""
        for start in range(0, self._size, PIECE):
            yield await self.fetch_range(start, min(start + PIECE, self._size))

    def close(self) -> None:
        """See `Blob.close`."""
        self._file.close()


class _Saved(msgspec.Struct, rename="pascal"):
    """One image of a docker archive's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int
    media_type: str
    config: Descriptor
    layers: list[Descriptor]


class DockerArchiveImage:
    """An image (see `ImageSource`) that was saved by docker; its manifest is made up from what is there."""

    def __init__(self, reference: ArchiveReference) -> None:
        self._reference = reference
        self._files = ArchiveFiles(reference.path)
        self._manifest: FetchedManifest | None = None
        self._names: dict[str, str] = {}

    @property
    def name(self) -> str:
        return str(self._reference)

    async def fetch_manifest(self, digest: str | None = None) -> FetchedManifest:
        """See `ImageSource.fetch_manifest`."""
        if self._manifest is None:
            self._manifest = await self._make_manifest(self._choose())
        if digest not in (None, self._manifest.digest):
            raise NotFoundError(f"{self.name}: has no manifest {digest}")
        return self._manifest

    def open_blob(self, descriptor: Descriptor) -> MemberBlob:
        """See `ImageSource.open_blob`."""
        return self._files.open_blob(self._names[descriptor.digest], descriptor.size)

    def open_beside(self, suffix: str) -> None:
        """See `ImageSource.open_beside`: there is never one."""

    async def fetch_referrers(self, digest: str, artifact_type: str) -> Sequence[Referrer]:
        """See `ImageSource.fetch_referrers`: an archive has none."""
        return ()

    async def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """See `ImageSource.fetch_blob`."""
        body = self._files.load(self._names[descriptor.digest], CONFIG_MAX)
        verify(body, descriptor.digest, self.name)
        return body

    def _choose(self) -> _Saved:
        try:
            images = msgspec.json.decode(self._files.load("manifest.json", MANIFEST_MAX), type=list[_Saved])
        except msgspec.DecodeError as error:
            raise FormatError(f"{self.name}: its manifest.json is malformed: {error}") from error
        wanted = self._reference.name
        if wanted is not None:
            wanted = wanted if ":" in wanted else f"{wanted}:latest"
            images = [image for image in images if wanted in (image.repo_tags or ())]
        if len(images) == 1:
            return images[0]
        raise NotFoundError(f"{self.name}: has {len(images)} such images, and one has to be named")

    async def _make_manifest(self, saved: _Saved) -> FetchedManifest:
        body = self._files.load(posixpath.normpath(saved.config), CONFIG_MAX)
        config = Descriptor(OCI_CONFIG, sha256_digest(body), len(body))
        self._names[config.digest] = posixpath.normpath(saved.config)
        diff_ids = parse_config(body).diff_ids
        if len(diff_ids) != len(saved.layers):
            raise FormatError(f"{self.name}: has {len(saved.layers)} layers and {len(diff_ids)} diff_ids")
        layers = [await self._describe(name, diff_ids[at]) for at, name in enumerate(saved.layers)]
        document = msgspec.json.encode(_Document(2, OCI_MANIFEST, config, layers))
        return FetchedManifest(document, OCI_MANIFEST, sha256_digest(document))

    async def _describe(self, name: str, diff_id: str) -> Descriptor:
        name = posixpath.normpath(name)
        blob = self._files.open_blob(name)
        head = await blob.fetch_range(0, min(4, blob.size))
        media_type = next((kind for magic, kind in _MEDIA_TYPES if head.startswith(magic)), OCI_LAYER)
        digest = diff_id
        if media_type != OCI_LAYER:
            hasher = hashlib.sha256()
            async for piece in blob.iter_body():
                hasher.update(piece)
            digest = f"sha256:{hasher.hexdigest()}"
        blob.close()
        self._names[digest] = name
        return Descriptor(media_type, digest, blob.size)
