"""Images written to a registry: blobs in chunks, while the next one is made."""

import contextlib
from concurrent.futures import Future

from crfs.blobs.push import RegistryPush
from crfs.blobs.upload import CHUNK, BlobUpload
from crfs.convert.targets import Submit
from crfs.errors import CrfsError, UnsupportedError
from crfs.formats.reference import ImageReference


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
