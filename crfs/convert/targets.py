"""Where converted images go: a registry, an OCI layout, one tar of either kind, or a file for a single layer.

Blobs are written by the thread that makes them, blocking; the rest are coroutines of the fetch loop. An image is
there once its manifest is: whatever fails before leaves no name behind.
"""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import msgspec

from crfs.blobs.push import RegistryPush
from crfs.blobs.upload import CHUNK, BlobUpload
from crfs.convert.layout import LayoutPusher, index_entry
from crfs.errors import CrfsError, DigestMismatch, UnsupportedError
from crfs.formats.digest import parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor, Manifest, parse_manifest
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


class RegistryTarget:
    """A repository; `tag` None: only by digest."""

    def __init__(self, push: RegistryPush, tag: str | None, submit: Submit) -> None:
        self._push = push
        self._tag = tag
        self._submit = submit

    @property
    def name(self) -> str:
        return self._push.name

    def has_blob(self, digest: str) -> bool:
        """See `Target`."""
        return self._submit(self._push.has_blob(digest)).result()

    def mount_blob(self, digest: str, origin: ImageReference) -> bool:
        """See `Target`."""
        return self._submit(self._push.mount_blob(digest, origin)).result()

    def open_sink(self) -> "UploadSink":
        """See `Target`."""
        return UploadSink(self._push, self._submit)

    def put_manifest(self, body: bytes, media_type: str, name: bool) -> None:
        """See `Target`."""
        self._submit(self._push.push_manifest(body, media_type, self._tag if name else None)).result()

    def beside(self, suffix: str) -> "RegistryTarget":
        """See `Target`."""
        if self._tag is None:
            raise UnsupportedError(f"{self.name}: an external TOC is found by a tag, and there is none")
        return RegistryTarget(self._push, self._tag + suffix, self._submit)

    def close(self) -> None:
        """See `Target`."""

    def abort(self) -> None:
        """See `Target`."""


class UploadSink:
    """Sends a chunk while the next one is made; what fits into one is not sent where it is there already."""

    def __init__(self, push: RegistryPush, submit: Submit) -> None:
        self._push = push
        self._submit = submit
        self._upload: BlobUpload | None = None
        self._waiting = bytearray()
        self._sending: Future[None] | None = None
        self._done = False

    def write(self, data: bytes, /) -> None:
        """See `BlobSink`."""
        self._waiting += data
        if len(self._waiting) >= CHUNK:
            self._send()

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""
        if self._upload is None:
            self._submit(self._push.push_blob(bytes(self._waiting), digest)).result()
        else:
            self._send()
            self._wait()
            self._submit(self._upload.finish(digest)).result()
        self._done = True

    def abort(self) -> None:
        """See `BlobSink`."""
        if self._done:
            return
        self._done = True
        with contextlib.suppress(CrfsError):
            self._wait()
        if self._upload is not None:
            self._submit(self._upload.cancel()).result()

    def _send(self) -> None:
        self._wait()
        if self._upload is None:
            self._upload = self._submit(self._push.open_upload()).result()
        self._sending = self._submit(self._upload.write(bytes(self._waiting)))
        self._waiting.clear()

    def _wait(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()


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
            with _disk_errors(self._directory):
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
        with _disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._path = directory / f".partial-{os.getpid()}-{os.urandom(4).hex()}"
            self._file = self._path.open("xb")

    def write(self, data: bytes, /) -> None:
        """See `BlobSink`."""
        with _disk_errors(self._path):
            self._file.write(data)

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""
        with _disk_errors(self._path):
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
        return _NullSink() if self._written else FileSink(self._path.parent, self._place)

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
        with _disk_errors(path):
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
        with _disk_errors(self._path):
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
        with _disk_errors(self._path):
            self._file.write(data)
            self._size += len(data)

    def finish(self, digest: str) -> None:
        """See `BlobSink`."""
        info = tarfile.TarInfo(self._keep(digest))
        info.size = self._size
        with _disk_errors(self._path):
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

    def open_sink(self) -> "_NullSink":
        """See `Target`."""
        return _NullSink()

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


class _NullSink:
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
def _disk_errors(path: Path) -> Any:
    """CrfsError, naming the path, where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise CrfsError(f"{path}: {error.strerror or error}") from error
