"""Images for the tests of this floor: layers in every format, an image of several, and where they are put."""

import asyncio
import gzip
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from crfs.convert.layout import LayoutPusher
from crfs.formats.footer import FooterKind
from crfs.formats.platforms import host_platform
from tests.support.layers import Dir, Entry, File, make_estargz, make_tar
from tests.support.rawregistry import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Client,
    descriptor,
    digest_of,
)

TAR = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it lies in a registry."""

    data: bytes
    media_type: str
    diff_id: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the blob."""
        return digest_of(self.data)

    def descriptor(self) -> dict[str, object]:
        """As a manifest has it."""
        return {**descriptor(self.data, self.media_type), "annotations": dict(self.annotations)}


def tar_layer(entries: Sequence[Entry]) -> Layer:
    """Uncompressed."""
    tar = make_tar(entries)
    return Layer(tar, TAR, digest_of(tar))


def gzip_layer(entries: Sequence[Entry]) -> Layer:
    """A tar.gz without a TOC."""
    tar = make_tar(entries)
    return Layer(gzip.compress(tar, mtime=0), f"{TAR}+gzip", digest_of(tar))


def zstd_layer(entries: Sequence[Entry]) -> Layer:
    """A tar.zst."""
    tar = make_tar(entries)
    return Layer(zstandard.compress(tar), f"{TAR}+zstd", digest_of(tar))


def estargz_layer(entries: Sequence[Entry], **options: object) -> Layer:
    """An eStargz; `options` are those of convert's Options."""
    data, made = make_estargz(entries, **options)
    return Layer(data, f"{TAR}+gzip", made.diff_id, made.annotations)


def stargz_layer(entries: Sequence[Entry], **options: object) -> Layer:
    """An old stargz: nothing in a manifest ties its TOC to the image."""
    return estargz_layer(entries, kind=FooterKind.STARGZ, **options)


FORMATS = {
    "tar": tar_layer,
    "gzip": gzip_layer,
    "zstd": zstd_layer,
    "stargz": stargz_layer,
    "estargz": estargz_layer,
}


def config_of(
    layers: Sequence[Layer], architecture: str | None = None, how: Mapping[str, object] = {}
) -> bytes:
    """The image's config; `how` it wants to be run."""
    host = host_platform()
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    platform = {"architecture": architecture or host.architecture, "os": host.os}
    return json.dumps({**platform, "rootfs": rootfs, "config": how}).encode()


def manifest_of(layers: Sequence[Layer], config: bytes) -> dict[str, object]:
    """The image's manifest; `layers` bottom first."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_CONFIG),
        "layers": [layer.descriptor() for layer in layers],
    }


def push(
    address: str,
    name: str,
    *layers: Layer,
    tag: str = "v1",
    architecture: str | None = None,
    how: Mapping[str, object] = {},
) -> str:
    """Push an image as ADDRESS/NAME:TAG; its source, as crfs takes it."""
    client = Client(address)
    config = config_of(layers, architecture, how)
    for data in (config, *(layer.data for layer in layers)):
        client.push_blob(name, data)
    assert client.push_manifest(name, tag, manifest_of(layers, config)).status == 201
    return f"docker://{address}/{name}:{tag}"


def push_index(address: str, name: str, images: Mapping[str, Layer], tag: str = "v1") -> str:
    """Push an index of images for the architectures that are the keys; its source."""
    client, manifests = Client(address), []
    for architecture, layer in images.items():
        push(address, name, layer, tag=architecture, architecture=architecture)
        body = client.ask("GET", f"/v2/{name}/manifests/{architecture}", Accept=OCI_MANIFEST).body
        platform = {"os": host_platform().os, "architecture": architecture}
        manifests.append({**descriptor(body, OCI_MANIFEST), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    assert client.push_manifest(name, tag, index, OCI_INDEX).status == 201
    return f"docker://{address}/{name}:{tag}"


def write_layout(directory: Path, *layers: Layer, tag: str = "v1") -> str:
    """Write an image into an OCI layout; its source."""
    pusher, config = LayoutPusher(directory), config_of(layers)

    async def write() -> None:
        for data in (config, *(layer.data for layer in layers)):
            await pusher.push_blob(data, digest_of(data))
        await pusher.push_manifest(json.dumps(manifest_of(layers, config)).encode(), OCI_MANIFEST, tag)

    asyncio.run(write())
    return f"oci:{directory}:{tag}"


def noise(name: str, size: int) -> bytes:
    """Bytes that don't compress, always the same for a name."""
    return random.Random(hashlib.sha256(name.encode()).digest()).randbytes(size)


def noisy(name: str, size: int) -> File:
    """A file of those."""
    return File(name, noise(name, size))


SMALL: list[Entry] = [Dir("./"), Dir("dir"), File("dir/file", b"content\n" * 1000), File("empty")]
