"""Manifests, indexes and configs of OCI images and Docker's schema 2, from JSON to values. Pure; any thread.

Follows image-spec manifest.md, image-index.md, config.md and descriptor.md. A null where the specification
wants a list or a map, which Go's encoder writes for an empty one, is read as empty.
"""

from typing import TypeVar

import msgspec

from crfs.errors import FormatError, UnsupportedError
from crfs.formats import mediatypes
from crfs.formats.digest import parse_digest
from crfs.formats.platforms import Platform

SIZE_MAX = 2**63 - 1
# containers/image reads at most this much; a body that is longer is refused before it is parsed
MANIFEST_MAX = 4 << 20
CONFIG_MAX = 8 << 20
# an index may point to indexes; deeper than this it is a trap
INDEX_DEPTH = 4


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a manifest says of a blob: `size` in bytes, `digest` well-formed. Encodes to the OCI JSON."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()
    platform: Platform | None = None


class Manifest(msgspec.Struct, frozen=True):
    """One image for one platform; `layers` bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class ImageIndex(msgspec.Struct, frozen=True):
    """Images (or further indexes) to choose from, by platform or by annotation."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class ContainerConfig(msgspec.Struct, frozen=True):
    """How the image wants to be run (config.md, the `config` object). None means the image doesn't say."""

    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    stop_signal: str | None = None
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True):
    """An image's config: its platform, the diff_ids of its layers (bottom first), and how to run it."""

    platform: Platform
    diff_ids: tuple[str, ...]
    config: ContainerConfig = ContainerConfig()


class _PlatformJson(msgspec.Struct, rename={"os_version": "os.version"}):
    os: str = ""
    architecture: str = ""
    variant: str | None = None
    os_version: str | None = None


class _DescriptorJson(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None
    platform: _PlatformJson | None = None


class _ManifestJson(msgspec.Struct, rename="camel"):
    config: _DescriptorJson
    layers: list[_DescriptorJson] | None = None
    annotations: dict[str, str] | None = None


class _IndexJson(msgspec.Struct):
    manifests: list[_DescriptorJson] | None = None
    annotations: dict[str, str] | None = None


class _ProbeJson(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.Raw()


class _RootfsJson(msgspec.Struct):
    type: str = "layers"
    diff_ids: list[str] | None = None


class _ContainerJson(msgspec.Struct, rename="pascal"):
    user: str | None = None
    working_dir: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    volumes: dict[str, object] | None = None
    exposed_ports: dict[str, object] | None = None


class _ConfigJson(msgspec.Struct, rename={"os_version": "os.version"}):
    rootfs: _RootfsJson
    architecture: str = ""
    os: str = ""
    variant: str | None = None
    os_version: str | None = None
    config: _ContainerJson | None = None


_T = TypeVar("_T")


def parse_manifest(body: bytes, media_type: str | None = None) -> Manifest | ImageIndex:
    """A manifest or an index from its JSON.

    What it is comes from the body's `mediaType`, else from `media_type` (the Content-Type it came with), else
    from its fields. FormatError for malformed JSON, digests or sizes, and where the body has the fields of
    both (image-spec, security note of manifest.md); UnsupportedError for schema 1 and unknown media types.
    """
    if len(body) > MANIFEST_MAX:
        raise FormatError(f"the manifest is longer than {MANIFEST_MAX} bytes")
    probe = _decode(body, _ProbeJson, "manifest")
    if _is_there(probe.fs_layers) or probe.schema_version == 1:
        raise UnsupportedError(
            "the manifest is of Docker's schema 1; push the image again with a current tool"
        )
    if _is_there(probe.manifests) and (_is_there(probe.config) or _is_there(probe.layers)):
        raise FormatError("the manifest has the fields of an image and of an index")
    kind = _manifest_kind(probe, media_type)
    if kind in mediatypes.INDEXES:
        return _parse_index(body, kind)
    return _parse_image(body, kind)


def parse_config(body: bytes) -> ImageConfig:
    """An image's config from its JSON (config.md). FormatError for malformed JSON, diff_ids or rootfs."""
    found = _decode(body, _ConfigJson, "image config")
    if found.rootfs.type != "layers":
        raise FormatError(f"the image config's rootfs has the type {found.rootfs.type!r}, not 'layers'")
    diff_ids = tuple(found.rootfs.diff_ids or ())
    for diff_id in diff_ids:
        parse_digest(diff_id)
    platform = Platform(found.os or "linux", found.architecture, found.variant, found.os_version)
    return ImageConfig(platform, diff_ids, _container(found.config))


def _container(found: _ContainerJson | None) -> ContainerConfig:
    if found is None:
        return ContainerConfig()
    return ContainerConfig(
        user=found.user or "",
        working_dir=found.working_dir or "",
        entrypoint=None if found.entrypoint is None else tuple(found.entrypoint),
        cmd=None if found.cmd is None else tuple(found.cmd),
        env=tuple(found.env or ()),
        labels=found.labels or {},
        stop_signal=found.stop_signal or None,
        volumes=tuple(found.volumes or ()),
        exposed_ports=tuple(found.exposed_ports or ()),
    )


def _manifest_kind(probe: _ProbeJson, header: str | None) -> str:
    """The media type to read the body by: its own, the header's, or what its fields look like."""
    declared = mediatypes.essence(probe.media_type or "")
    served = mediatypes.essence(header or "")
    known = mediatypes.MANIFESTS | mediatypes.INDEXES
    if declared in known:
        return declared
    if declared:
        raise UnsupportedError(f"the manifest's media type {declared} is not one of an image or an index")
    if served in known:
        return served
    if served in mediatypes.SCHEMA1:
        raise UnsupportedError(
            "the manifest is of Docker's schema 1; push the image again with a current tool"
        )
    if _is_there(probe.manifests):
        return mediatypes.OCI_INDEX
    if _is_there(probe.config):
        return mediatypes.OCI_MANIFEST
    raise UnsupportedError("the manifest has no media type and looks like neither an image nor an index")


def _is_there(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def _parse_image(body: bytes, kind: str) -> Manifest:
    found = _decode(body, _ManifestJson, "manifest")
    layers = tuple(_descriptor(layer) for layer in found.layers or ())
    return Manifest(kind, _descriptor(found.config), layers, found.annotations or {})


def _parse_index(body: bytes, kind: str) -> ImageIndex:
    found = _decode(body, _IndexJson, "index")
    manifests = tuple(_descriptor(entry) for entry in found.manifests or ())
    return ImageIndex(kind, manifests, found.annotations or {})


def _descriptor(found: _DescriptorJson) -> Descriptor:
    parse_digest(found.digest)
    if not 0 <= found.size <= SIZE_MAX:
        raise FormatError(f"the descriptor of {found.digest} has the size {found.size}")
    urls = tuple(found.urls or ())
    platform = _platform(found.platform)
    return Descriptor(found.media_type, found.digest, found.size, found.annotations or {}, urls, platform)


def _platform(found: _PlatformJson | None) -> Platform | None:
    if found is None:
        return None
    return Platform(found.os, found.architecture, found.variant or None, found.os_version)


def _decode(body: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the {what} is malformed: {error}") from error
