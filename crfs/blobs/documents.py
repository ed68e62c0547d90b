"""Small bodies in the disk cache: manifests, indexes, configs by digest, and what a reference named last.

    documents/sha256-...   media type (or nothing), a newline, the body
    refs/...               the digest that a reference named when it was last asked for, and the reference

A body is hashed whenever it is read. Any thread, any process.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from crfs.blobs.blob import FetchedManifest
from crfs.blobs.cachedir import CacheDirectory
from crfs.errors import CrfsError
from crfs.formats.digest import parse_digest, verify

log = logging.getLogger(__name__)


class Documents:
    """Those of one cache."""

    def __init__(self, directory: CacheDirectory) -> None:
        self._directory = directory

    def load(self, digest: str) -> FetchedManifest | None:
        """The body with that digest, if it is here and still what it was."""
        path = self._path(digest)
        try:
            media_type, _, body = path.read_bytes().partition(b"\n")
            verify(body, digest, str(path))
        except FileNotFoundError:
            return None
        except (OSError, CrfsError) as error:
            log.warning("%s; it is dropped and fetched again", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return FetchedManifest(body, media_type.decode(errors="replace") or None, digest)

    def store(self, found: FetchedManifest) -> None:
        """Keep a body that was verified against its digest. Where the disk takes no more, it is not kept."""
        head = f"{found.media_type or ''}\n".encode()
        if b"\n" not in head[:-1]:
            self._write(self._path(found.digest), head + found.body)

    def load_ref(self, name: str) -> str | None:
        """The digest that a reference named when it was last asked for."""
        try:
            digest, _, _ = self._ref_path(name).read_text().partition("\n")
            return str(parse_digest(digest))
        except (OSError, ValueError, CrfsError):
            return None

    def store_ref(self, name: str, digest: str) -> None:
        """A reference names that digest now."""
        if self.load_ref(name) != digest:
            self._write(self._ref_path(name), f"{digest}\n{name}\n".encode())

    def iter_refs(self) -> Iterator[tuple[str, str]]:
        """All references that were asked for, each with what it named last."""
        for path in (self._directory.root / "refs").iterdir():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                digest, _, name = path.read_text().rstrip("\n").partition("\n")
                yield name, digest

    def _path(self, digest: str) -> Path:
        return self._directory.root / "documents" / str(parse_digest(digest)).replace(":", "-")

    def _ref_path(self, name: str) -> Path:
        return self._directory.root / "refs" / hashlib.sha256(name.encode()).hexdigest()

    def _write(self, path: Path, body: bytes) -> None:
        with contextlib.suppress(OSError), self._directory.staged() as staged:
            staged.write(body)
            self._directory.publish(staged, path)
