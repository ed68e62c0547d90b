"""Images written to an OCI layout, and a single layer to a file."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from crfs.convert.layout import LayoutPusher
from crfs.convert.targets import BlobSink, NullSink, disk_errors, put_bytes
from crfs.errors import UnsupportedError
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.reference import ImageReference


class LayoutTarget:
    """An image of an OCI layout; `ref` None: it has no name there, and replaces others that have none."""

    def __init__(self, directory: Path, ref: str | None) -> None:
        self._directory = directory
        self._ref = ref
        self._pusher = LayoutPusher(directory)

    @property
    def name(self) -> str:
        return f"oci:{self._directory}" + (f":{self._ref}" if self._ref else "")

    def has_blob(self, digest: str) -> bool:
        """See `Target`."""
        return self._pusher.blob_path(digest).exists()

    def mount_blob(self, _digest: str, _origin: ImageReference) -> bool:
        """See `Target`."""
        return False

    def open_sink(self) -> "FileSink":
        """See `Target`."""
        return FileSink(self._directory / "blobs/sha256", self._pusher.blob_path)

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """See `Target`."""
        digest = sha256_digest(body)
        put_bytes(self, body, digest)
        if name:
            with disk_errors(self._directory):
                self._pusher.add(self._ref, Descriptor(media_type, digest, len(body)))

    def beside(self, suffix: str) -> "LayoutTarget":
        """See `Target`."""
        if self._ref is None:
            raise UnsupportedError(
                f"{self.name}: an external TOC is found by the image's name, and it has none"
            )
        return LayoutTarget(self._directory, self._ref + suffix)

    def close(self) -> None:
        """See `Target`."""

    def abort(self) -> None:
        """See `Target`."""


class FileSink:
    """A blob in a file, which `place` says the name of once its digest is known."""

    def __init__(self, directory: Path, place: Callable[[str], Path]) -> None:
        self._place = place
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._path = directory / f".partial-{os.getpid()}-{os.urandom(4).hex()}"
            self._file = self._path.open("xb")

    def write(self, data: bytes, /) -> None:
        """See `BlobSink`."""
        with disk_errors(self._path):
            self._file.write(data)

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""
        with disk_errors(self._path):
            self._file.close()
            self._path.replace(self._place(digest))

    def abort(self) -> None:
        """See `BlobSink`."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


class BlobFileTarget:
    """A file for the one layer that there is, the first blob; configs and manifests have no place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = False

    @property
    def name(self) -> str:
        return str(self._path)

    def has_blob(self, _digest: str) -> bool:
        """See `Target`."""
        return False

    def mount_blob(self, _digest: str, _origin: ImageReference) -> bool:
        """See `Target`."""
        return False

    def open_sink(self) -> "BlobSink":
        """See `Target`."""
        return NullSink() if self._written else FileSink(self._path.parent, self._place)

    def _place(self, _digest: str) -> Path:
        self._written = True
        return self._path

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """See `Target`."""

    def beside(self, suffix: str) -> "BlobFileTarget":
        """See `Target`."""
        return BlobFileTarget(self._path.with_name(self._path.name + suffix))

    def close(self) -> None:
        """See `Target`."""

    def abort(self) -> None:
        """See `Target`."""
