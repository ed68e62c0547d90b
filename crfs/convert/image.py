"""Layers into an image: its config and manifest, and their way to a registry or an OCI layout.

Follows the OCI image specification 1.1. The same layers and the same Run give the same image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from crfs.convert.lazylayer import ConvertedLayer
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from crfs.formats.platforms import Platform, host_platform


class LayerFile(msgspec.Struct, frozen=True):
    """A layer that was written to `path`."""

    path: Path
    converted: ConvertedLayer

    @property
    def descriptor(self) -> Descriptor:
        """What the manifest says of it."""
        layer = self.converted
        return Descriptor(OCI_LAYER_GZIP, layer.digest, layer.size, annotations=layer.annotations)


class Run(msgspec.Struct, frozen=True):
    """How a container of the image starts (the config's `config` object)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""


class Pusher(Protocol):
    """Where an image goes; blobs before the manifest that refers to them."""

    async def push_blob(self, data: bytes | Path, digest: str) -> bool:
        """Store the blob (bytes, or a file's) unless it is there already; whether that was needed."""
        ...

    async def push_manifest(self, body: bytes, media_type: str, tag: str | None = None) -> str:
        """Store the manifest under its digest and, unless None, under `tag`; the digest."""
        ...


class _Container(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""


class _Rootfs(msgspec.Struct, frozen=True):
    type: str
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str
    os: str
    rootfs: _Rootfs
    config: _Container
    variant: str | None = None


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


def build_config(layers: Sequence[LayerFile], run: Run, platform: Platform) -> bytes:
    """The image's config as JSON."""
    rootfs = _Rootfs("layers", tuple(layer.converted.diff_id for layer in layers))
    container = _Container(run.entrypoint, run.cmd, run.env, run.working_dir)
    return msgspec.json.encode(
        _Config(platform.architecture, platform.os, rootfs, container, platform.variant)
    )


def build_manifest(config: Descriptor, layers: Sequence[LayerFile]) -> bytes:
    """The image's manifest as JSON; `layers` bottom first."""
    descriptors = tuple(layer.descriptor for layer in layers)
    return msgspec.json.encode(_Manifest(2, OCI_MANIFEST, config, descriptors))


async def push_image(
    pusher: Pusher, layers: Sequence[LayerFile], run: Run, tag: str, platform: Platform | None = None
) -> str:
    """Push an image of `layers`, bottom first, as `tag`; the manifest's digest.

    It is one for `platform`, None: for this machine's.
    """
    config = build_config(layers, run, platform or host_platform())
    descriptor = Descriptor(OCI_CONFIG, sha256_digest(config), len(config))
    for layer in layers:
        await pusher.push_blob(layer.path, layer.converted.digest)
    await pusher.push_blob(config, descriptor.digest)
    return await pusher.push_manifest(build_manifest(descriptor, layers), OCI_MANIFEST, tag)
