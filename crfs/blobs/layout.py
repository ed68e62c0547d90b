"""An image in an OCI image layout on disk (image-spec, image-layout.md). Small files are read on the loop."""

import os
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from crfs.blobs.blob import Blob, FetchedManifest
from crfs.blobs.localfile import FileBlob
from crfs.errors import FormatError, NotFoundError, TransportError
from crfs.formats.digest import parse_digest, verify
from crfs.formats.manifest import CONFIG_MAX, MANIFEST_MAX, Descriptor, ImageIndex, parse_manifest
from crfs.formats.mediatypes import INDEXES, MANIFESTS, OCI_INDEX
from crfs.formats.reference import ArchiveReference, LayoutReference
from crfs.formats.referrers import Referrer

REF_NAME = "org.opencontainers.image.ref.name"


class Files(Protocol):
    """Where the files of a layout are, by their names in it. NotFoundError, TransportError, FormatError."""

    def where(self, name: str) -> str:
        """A file's name, for messages."""
        ...

    def load(self, name: str, limit: int) -> bytes:
        """A small file whole; FormatError if it is longer than `limit`."""
        ...

    def open_blob(self, name: str, size: int | None = None) -> Blob:
        """One file, of which nothing is read yet."""
        ...


class DirectoryFiles:
    """The files of a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)

    def where(self, name: str) -> str:
        """See `Files.where`."""
        return os.path.join(self._directory, name)

    def load(self, name: str, limit: int) -> bytes:
        """See `Files.load`."""
        return _load(self.where(name), limit)

    def open_blob(self, name: str, size: int | None = None) -> FileBlob:
        """See `Files.open_blob`."""
        return FileBlob(self.where(name), size=size)


class LayoutImage:
    """One image of the layout in `files`, by default those of `reference.directory`."""

    def __init__(self, reference: LayoutReference | ArchiveReference, files: Files | None = None) -> None:
        self._reference = reference
        self._digest = None
        if isinstance(reference, LayoutReference):
            self._digest = reference.digest
            files = files or DirectoryFiles(reference.directory)
        assert files is not None
        self._files = files
        self._index: ImageIndex | None = None

    @property
    def name(self) -> str:
        return str(self._reference)

    async def fetch_manifest(self, digest: str | None = None) -> FetchedManifest:
        """See `ImageSource.fetch_manifest`."""
        wanted = digest or self._digest
        if wanted is None:
            chosen = self._choose()
            return await self._load_manifest(chosen.digest, chosen.media_type)
        return await self._load_manifest(wanted, None)

    def open_blob(self, descriptor: Descriptor) -> Blob:
        """See `ImageSource.open_blob`."""
        return self._files.open_blob(_path(descriptor.digest), descriptor.size)

    def open_beside(self, suffix: str) -> "LayoutImage | None":
        """See `ImageSource.open_beside`."""
        name = self._reference.name
        return (
            None if name is None else LayoutImage(replace(self._reference, name=name + suffix), self._files)
        )

    async def fetch_referrers(self, digest: str, artifact_type: str) -> Sequence[Referrer]:
        """See `ImageSource.fetch_referrers`: a layout has no list of them."""
        return ()

    async def fetch_blob(self, descriptor: Descriptor) -> bytes:
        """See `ImageSource.fetch_blob`."""
        if descriptor.size > CONFIG_MAX:
            raise FormatError(
                f"{self.name}: {descriptor.digest} is too long for a config: {descriptor.size} B"
            )
        path = _path(descriptor.digest)
        body = self._files.load(path, descriptor.size)
        if len(body) != descriptor.size:
            raise FormatError(f"{self._files.where(path)}: has {len(body)} bytes, not {descriptor.size}")
        verify(body, descriptor.digest, self._files.where(path))
        return body

    async def _load_manifest(self, digest: str, media_type: str | None) -> FetchedManifest:
        path = _path(digest)
        body = self._files.load(path, MANIFEST_MAX)
        verify(body, digest, self._files.where(path))
        return FetchedManifest(body, media_type, digest)

    def _choose(self) -> Descriptor:
        """What the reference names in index.json: by annotation, or the only image there is."""
        entries = self._load_index().manifests
        images = [entry for entry in entries if entry.media_type in MANIFESTS | INDEXES]
        name = self._reference.name
        if name is not None:
            images = [entry for entry in images if entry.annotations.get(REF_NAME) == name]
        if len(images) == 1 or (images and name is not None):
            return images[0]
        there = ", ".join(entry.annotations.get(REF_NAME, entry.digest) for entry in entries[:20]) or "none"
        if name is None and images:
            raise NotFoundError(f"{self.name}: has {len(images)} images, name one of them: {there}")
        raise NotFoundError(f"{self.name}: no such image; there is: {there}")

    def _load_index(self) -> ImageIndex:
        if self._index is None:
            path = self._files.where("index.json")
            try:
                found = parse_manifest(self._files.load("index.json", MANIFEST_MAX), OCI_INDEX)
            except NotFoundError as error:
                raise NotFoundError(f"{self.name}: not an OCI image layout, {path!r} is missing") from error
            except FormatError as error:
                raise FormatError(f"{path}: {error}") from error
            if not isinstance(found, ImageIndex):
                raise FormatError(f"{path}: not an image index")
            self._index = found
        return self._index


def _path(digest: str) -> str:
    known = parse_digest(digest)
    return os.path.join("blobs", known.algorithm, known.hex)


def _load(path: str, limit: int) -> bytes:
    """A small file whole; NotFoundError, TransportError, FormatError (longer than `limit`), naming it."""
    try:
        with open(path, "rb") as file:
            body = file.read(limit + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise TransportError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(body) > limit:
        raise FormatError(f"{path}: longer than {limit} bytes")
    return body
