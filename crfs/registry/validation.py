"""What a pushed manifest must be (OCI image 1.1, Docker schema 2), and what it refers to. Pure."""

from typing import Annotated

import msgspec

from crfs.registry.names import check_digest
from crfs.registry.refusal import Refusal

IMAGE_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A reference to content, and in a list of referrers what is said about it."""

    media_type: str
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """What image manifests and indexes have in common."""

    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class _Image(_Document, frozen=True, rename="camel", kw_only=True):
    config: Descriptor
    layers: list[Descriptor]


class _Index(_Document, frozen=True, rename="camel", kw_only=True):
    manifests: list[Descriptor]


class _Probe(_Document, frozen=True, rename="camel", kw_only=True):
    """What a document has at all: a field that is absent is falsy here."""

    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()


class Manifest(msgspec.Struct, frozen=True):
    """A valid manifest: its type, what must exist before it, and what it says about its subject."""

    media_type: str
    blobs: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: str | None
    artifact_type: str | None
    annotations: dict[str, str] | None


_image_decoder = msgspec.json.Decoder(_Image)
_index_decoder = msgspec.json.Decoder(_Index)
_probe_decoder = msgspec.json.Decoder(_Probe)


def parse_manifest(content: bytes, content_type: str | None) -> Manifest:
    """A manifest pushed as `content_type`, or as its mediaType says where that is None.

    MANIFEST_INVALID or DIGEST_INVALID where it isn't one.
    """
    try:
        media_type = _check_type(_probe_decoder.decode(content), content_type)
        parse = _parse_image if media_type in IMAGE_TYPES else _parse_index
        manifest = parse(content, media_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error
    for descriptor in (*manifest.blobs, *manifest.manifests):
        check_digest(descriptor.digest)
    return manifest


def _check_type(document: _Probe, content_type: str | None) -> str:
    if document.schema_version != 2:
        raise _invalid(f"schemaVersion is {document.schema_version}, not 2")
    if document.manifests and (document.config or document.layers):
        # one client would see an image, another an index (security note of the image specification)
        raise _invalid("the fields of an image and of an index")
    media_type = content_type or document.media_type
    if media_type not in IMAGE_TYPES + INDEX_TYPES:
        raise _invalid(f"media type {media_type!r} is not one of a manifest")
    if document.media_type not in (None, media_type):
        raise _invalid(f"mediaType is {document.media_type!r}, Content-Type {media_type!r}")
    if document.subject is not None:
        check_digest(document.subject.digest)
    return media_type


def _parse_image(content: bytes, media_type: str) -> Manifest:
    image = _image_decoder.decode(content)
    # layers with urls may be kept elsewhere (non-distributable ones)
    blobs = (image.config, *(layer for layer in image.layers if not layer.urls))
    artifact_type = image.artifact_type or image.config.media_type
    return _manifest(image, media_type, artifact_type, blobs, ())


def _parse_index(content: bytes, media_type: str) -> Manifest:
    index = _index_decoder.decode(content)
    return _manifest(index, media_type, index.artifact_type, (), tuple(index.manifests))


def _manifest(
    document: _Document,
    media_type: str,
    artifact_type: str | None,
    blobs: tuple[Descriptor, ...],
    manifests: tuple[Descriptor, ...],
) -> Manifest:
    subject = None if document.subject is None else document.subject.digest
    return Manifest(media_type, blobs, manifests, subject, artifact_type, document.annotations)


def _invalid(message: str) -> Refusal:
    return Refusal(400, "MANIFEST_INVALID", message)
