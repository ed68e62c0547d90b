"""What the registry remembers, and under which key: blobs, uploads, manifests, tags, referrers.

    blobs/ALGORITHM/AB/HEX                        content, shared by all repositories
    repositories/NAME/_blobs/DIGEST               empty: the repository has this blob
    repositories/NAME/_uploads/UPLOAD             a blob on its way
    repositories/NAME/_manifests/DIGEST           a ManifestLink
    repositories/NAME/_tags/TAG                   the digest of a manifest
    repositories/NAME/_referrers/DIGEST/DIGEST    empty: the second's subject is the first

No component of a repository's name starts with an underscore. Deleting takes the link, never the content:
another repository may be linking to it at the same moment. Names and digests come checked (names.py).
"""

import hashlib
import uuid

import msgspec

from crfs.errors import DigestMismatch
from crfs.registry.files import Appender, Files, Source
from crfs.registry.names import is_digest, is_upload


class ManifestLink(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a manifest besides its bytes."""

    media_type: str
    subject: str | None = None


class StoredManifest(msgspec.Struct, frozen=True):
    """A manifest as it was pushed."""

    digest: str
    link: ManifestLink
    content: bytes


_link_decoder = msgspec.json.Decoder(ManifestLink)


class Storage:
    """The registry's memory over `files`. Called from the loop thread, commit_upload() also from a worker."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def has_repository(self, name: str) -> bool:
        """Whether anything was pushed to `name` and is still there."""
        return any(self._files.list_names(_key(name, kind)) for kind in ("_manifests", "_blobs"))

    # blobs

    def find_blob(self, name: str, digest: str) -> Source | None:
        """The blob, if `name` has it."""
        if self._files.find_size(_key(name, "_blobs", digest)) is None:
            return None
        return self._files.find_source(_content_key(digest))

    def mount_blob(self, origin: str, name: str, digest: str) -> bool:
        """Give `name` the blob that `origin` has; False where it hasn't."""
        if self.find_blob(origin, digest) is None:
            return False
        self._files.store(_key(name, "_blobs", digest), b"")
        return True

    def delete_blob(self, name: str, digest: str) -> bool:
        """Take the blob from `name`; whether it was there."""
        return self._files.delete(_key(name, "_blobs", digest))

    # uploads

    def start_upload(self, name: str) -> str:
        """A new, empty upload to `name`."""
        upload = uuid.uuid4().hex
        appender = self._files.open_appender(_key(name, "_uploads", upload), create=True)
        if appender is not None:
            appender.close()
        return upload

    def find_upload_size(self, name: str, upload: str) -> int | None:
        """The bytes that have arrived, None where `name` has no such upload."""
        return self._files.find_size(_key(name, "_uploads", upload)) if is_upload(upload) else None

    def open_upload(self, name: str, upload: str) -> Appender | None:
        """The upload's writer, None where `name` has no such upload; AppenderBusy while there is another."""
        return self._files.open_appender(_key(name, "_uploads", upload)) if is_upload(upload) else None

    def commit_upload(self, appender: Appender, name: str, digest: str) -> None:
        """Make the upload the blob `digest` of `name`; DigestMismatch where its bytes aren't that."""
        found = appender.digest(digest.partition(":")[0])
        if found != digest:
            raise DigestMismatch(f"the upload is {found}, not {digest}")
        appender.move(_content_key(digest))
        self._files.store(_key(name, "_blobs", digest), b"")

    def delete_upload(self, name: str, upload: str) -> bool:
        """Forget the upload; whether it was there."""
        return is_upload(upload) and self._files.delete(_key(name, "_uploads", upload))

    # manifests

    def find_manifest(self, name: str, reference: str) -> StoredManifest | None:
        """The manifest of that tag or digest, if `name` has it."""
        digest = reference if is_digest(reference) else self._find_tagged(name, reference)
        link = None if digest is None else self._files.find_bytes(_key(name, "_manifests", digest))
        if digest is None or link is None:
            return None
        content = self._files.find_bytes(_content_key(digest))
        return None if content is None else StoredManifest(digest, _link_decoder.decode(link), content)

    def _find_tagged(self, name: str, tag: str) -> str | None:
        digest = self._files.find_bytes(_key(name, "_tags", tag))
        return None if digest is None else digest.decode()

    def store_manifest(self, name: str, manifest: StoredManifest, tag: str | None) -> None:
        """Give `name` the manifest, under its digest and, unless None, under `tag`."""
        self._files.store(_content_key(manifest.digest), manifest.content)
        self._files.store(_key(name, "_manifests", manifest.digest), msgspec.json.encode(manifest.link))
        if manifest.link.subject is not None:
            self._files.store(_referrer_key(name, manifest.link.subject, manifest.digest), b"")
        if tag is not None:
            self._files.store(_key(name, "_tags", tag), manifest.digest.encode())

    def delete_tag(self, name: str, tag: str) -> bool:
        """Drop the tag, not what it points to; whether it was there."""
        return self._files.delete(_key(name, "_tags", tag))

    def delete_manifest(self, name: str, manifest: StoredManifest) -> None:
        """Drop the manifest, every tag that points to it, and its place among its subject's referrers."""
        for tag in self.list_tags(name):
            if self._find_tagged(name, tag) == manifest.digest:
                self.delete_tag(name, tag)
        if manifest.link.subject is not None:
            self._files.delete(_referrer_key(name, manifest.link.subject, manifest.digest))
        self._files.delete(_key(name, "_manifests", manifest.digest))

    def list_tags(self, name: str) -> list[str]:
        """The tags of `name`, in the order of the specification: alphanumeric, regardless of case."""
        return sorted(self._files.list_names(_key(name, "_tags")), key=tag_order)

    def list_referrers(self, name: str, subject: str) -> list[StoredManifest]:
        """The manifests in `name` whose subject is that digest, by digest."""
        digests = sorted(self._files.list_names(_key(name, "_referrers", subject)))
        found = (self.find_manifest(name, digest) for digest in digests)
        return [manifest for manifest in found if manifest is not None]


def tag_order(tag: str) -> tuple[str, str]:
    """The sort key of a tag: case decides only between tags that differ in nothing else."""
    return (tag.lower(), tag)


def compute_digest(algorithm: str, data: bytes) -> str:
    """ALGORITHM:HEX of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _key(name: str, *parts: str) -> str:
    return "/".join(("repositories", name, *parts))


def _referrer_key(name: str, subject: str, digest: str) -> str:
    return _key(name, "_referrers", subject, digest)


def _content_key(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded[:2]}/{encoded}"
