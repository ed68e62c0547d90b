"""Artifacts that refer to an image, and lists of them (image-spec manifest.md, distribution-spec "Referrers"). Pure."""

from collections.abc import Iterable, Sequence

import msgspec

from crfs.errors import FormatError
from crfs.formats.digest import parse_digest, sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST

CREATED = "org.opencontainers.image.created"
TITLE = "org.opencontainers.image.title"
EMPTY = b"{}"


class Referrer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a list says of an artifact. Encodes to the OCI JSON."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class _Artifact(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor
    annotations: dict[str, str]


class _Index(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str
    manifests: Sequence[msgspec.Raw] = ()


class _ReferrerJson(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class _IndexJson(msgspec.Struct):
    manifests: list[msgspec.Raw] | None = None


def fallback_tag(digest: str) -> str:
    """The tag of an image's list, in a registry that has none of its own ("Referrers Tag Schema")."""
    known = parse_digest(digest)
    return f"{known.algorithm}-{known.hex}"[:128]


def build_artifact(
    artifact_type: str, blob: Descriptor, subject: Descriptor, annotations: dict[str, str]
) -> tuple[bytes, Referrer]:
    """The manifest of one blob that says something about `subject`, and how lists have it."""
    config = Descriptor(OCI_EMPTY, sha256_digest(EMPTY), len(EMPTY))
    manifest = _Artifact(2, OCI_MANIFEST, artifact_type, config, (blob,), subject, annotations)
    body = msgspec.json.encode(manifest)
    return body, Referrer(OCI_MANIFEST, sha256_digest(body), len(body), artifact_type, annotations)


def parse_referrers(body: bytes) -> list[Referrer]:
    """What a list has. Entries that are none, also those of a later specification, are passed over."""
    found = []
    for raw in _entries(body):
        try:
            entry = msgspec.json.decode(raw, type=_ReferrerJson)
            digest = str(parse_digest(entry.digest))
        except (msgspec.DecodeError, FormatError):
            continue
        found.append(
            Referrer(entry.media_type, digest, entry.size, entry.artifact_type or "", entry.annotations or {})
        )
    return found


def add_referrer(body: bytes | None, entry: Referrer) -> bytes:
    """A list (None: there is none yet) with one more in the place of those of its type; all others as they were."""
    kept = [raw for raw in _entries(body) if not _is_of_type(raw, entry.artifact_type)] if body else []
    added = msgspec.Raw(msgspec.json.encode(entry))
    return msgspec.json.encode(_Index(2, OCI_INDEX, (*kept, added)))


def newest(referrers: Iterable[Referrer], artifact_type: str) -> Referrer | None:
    """The one of that type that was made last, as far as they say."""
    found = [referrer for referrer in referrers if referrer.artifact_type == artifact_type]
    return max(found, key=lambda referrer: referrer.annotations.get(CREATED, ""), default=None)


def _entries(body: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=_IndexJson).manifests or []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"this is no list of referrers: {error}") from error


def _is_of_type(raw: msgspec.Raw, artifact_type: str) -> bool:
    try:
        return msgspec.json.decode(raw, type=_ReferrerJson).artifact_type == artifact_type
    except msgspec.DecodeError:
        return False
