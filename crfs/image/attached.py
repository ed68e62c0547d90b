"""Traces that travel with their image, as OCI artifacts that refer to it. Fetch loop only."""

from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from crfs.blobs.blob import ImageSource
from crfs.errors import FormatError
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor, Manifest, parse_manifest
from crfs.formats.referrers import CREATED, EMPTY, TITLE, Referrer, build_artifact, newest
from crfs.image.trace import Touch, encode_trace, parse_trace

ARTIFACT_TYPE = "application/vnd.crfs.trace.v1"
_LAYER_TYPE = "application/vnd.crfs.trace.v1+jsonl"
_FILE_NAME = "trace.jsonl"

PushBlob = Callable[[bytes, str], Coroutine[Any, Any, bool]]
PushReferrer = Callable[[bytes, Referrer, str], Coroutine[Any, Any, None]]


class Pusher(Struct, frozen=True):
    """How blobs and an artifact's manifest (with what lists say of it, and its subject's digest) are pushed."""

    push_blob: PushBlob
    push_referrer: PushReferrer


async def fetch_trace(image: ImageSource, digest: str) -> list[Touch] | None:
    """The newest trace of the manifest with that digest; None where there is none. Any CrfsError."""
    found = newest(await image.fetch_referrers(digest, ARTIFACT_TYPE), ARTIFACT_TYPE)
    if found is None:
        return None
    fetched = await image.fetch_manifest(found.digest)
    manifest = parse_manifest(fetched.body, fetched.media_type)
    if not isinstance(manifest, Manifest) or len(manifest.layers) != 1:
        raise FormatError(f"{image.name}: {found.digest} is no trace: it has not one file")
    return parse_trace(await image.fetch_blob(manifest.layers[0]))


async def push_trace(
    pusher: Pusher, digest: str, size: int, media_type: str, touches: list[Touch], created: str
) -> str:
    """Attach a trace to the manifest with that digest; the artifact's digest. `created` as in RFC 3339."""
    body = encode_trace(touches)
    blob = Descriptor(_LAYER_TYPE, sha256_digest(body), len(body), {TITLE: _FILE_NAME})
    subject = Descriptor(media_type, digest, size)
    manifest, entry = build_artifact(ARTIFACT_TYPE, blob, subject, {CREATED: created})
    await pusher.push_blob(EMPTY, sha256_digest(EMPTY))
    await pusher.push_blob(body, blob.digest)
    await pusher.push_referrer(manifest, entry, digest)
    return entry.digest
