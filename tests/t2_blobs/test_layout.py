"""OCI image layouts: hand-made ones for what can be wrong, umoci's and skopeo's for what is right."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crfs.blobs.layout import LayoutImage
from crfs.errors import CrfsError, DigestMismatch, FormatError, NotFoundError, TransportError
from crfs.formats import mediatypes
from crfs.formats.digest import sha256_digest
from crfs.formats.manifest import Descriptor, ImageIndex, Manifest, parse_config, parse_manifest
from crfs.formats.reference import LayoutReference, parse_source
from tests.support.fetching import collect

needs_umoci = pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci makes the layouts")


def layout_at(text: str) -> LayoutImage:
    reference = parse_source(text)
    assert isinstance(reference, LayoutReference)
    return LayoutImage(reference)


def put(directory: Path, body: bytes) -> str:
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    digest = sha256_digest(body)
    (blobs / digest[7:]).write_bytes(body)
    return digest


def put_json(directory: Path, media_type: str, value: object, ref: str | None = None) -> dict[str, Any]:
    body = json.dumps(value).encode()
    entry: dict[str, Any] = {"mediaType": media_type, "digest": put(directory, body), "size": len(body)}
    return entry | ({"annotations": {"org.opencontainers.image.ref.name": ref}} if ref else {})


def put_image(directory: Path, layer: bytes, ref: str | None = None) -> dict[str, Any]:
    digest = put(directory, layer)
    config = put_json(directory, mediatypes.OCI_CONFIG, {"rootfs": {"type": "layers", "diff_ids": [digest]}})
    entry = {"mediaType": mediatypes.OCI_LAYER, "digest": digest, "size": len(layer)}
    body = {"schemaVersion": 2, "config": config, "layers": [entry]}
    return put_json(directory, mediatypes.OCI_MANIFEST, body, ref)


def put_index(directory: Path, *entries: dict[str, Any]) -> None:
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def fetch_layers(image: LayoutImage) -> list[bytes]:
    async def work() -> list[bytes]:
        found = await image.fetch_manifest()
        manifest = parse_manifest(found.body, found.media_type)
        assert isinstance(manifest, Manifest)
        config = parse_config(await image.fetch_blob(manifest.config))
        assert len(config.diff_ids) == len(manifest.layers)
        return [await collect(image.open_blob(layer).iter_body()) for layer in manifest.layers]

    return asyncio.run(work())


def test_only_image(tmp_path: Path) -> None:
    put_index(tmp_path, put_image(tmp_path, b"layer"))
    assert fetch_layers(layout_at(f"oci:{tmp_path}")) == [b"layer"]


def test_image_by_name_and_by_digest(tmp_path: Path) -> None:
    first, second = put_image(tmp_path, b"one", "one"), put_image(tmp_path, b"two", "repo/two:2")
    put_index(tmp_path, first, second)
    assert fetch_layers(layout_at(f"oci:{tmp_path}:one")) == [b"one"]
    assert fetch_layers(layout_at(f"oci:{tmp_path}:repo/two:2")) == [b"two"]
    assert fetch_layers(layout_at(f"oci:{tmp_path}:@{second['digest']}")) == [b"two"]


def test_nested_index(tmp_path: Path) -> None:
    entry = put_image(tmp_path, b"deep") | {"platform": {"os": "linux", "architecture": "arm64"}}
    put_index(tmp_path, put_json(tmp_path, mediatypes.OCI_INDEX, {"manifests": [entry]}, "multi"))
    image = layout_at(f"oci:{tmp_path}:multi")

    async def work() -> bytes:
        outer = await image.fetch_manifest()
        index = parse_manifest(outer.body, outer.media_type)
        assert isinstance(index, ImageIndex)
        inner = await image.fetch_manifest(index.manifests[0].digest)
        assert inner.digest == entry["digest"]
        manifest = parse_manifest(inner.body, inner.media_type)
        assert isinstance(manifest, Manifest)
        return await image.open_blob(manifest.layers[0]).fetch_range(1, 3)

    assert asyncio.run(work()) == b"ee"


@needs_umoci
def test_umoci_layout(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "hello").write_text("hello")
    layout = tmp_path / "layout"
    for command in (
        f"tar -C {tmp_path}/tree -cf {tmp_path}/layer.tar .",
        f"umoci init --layout {layout}",
        f"umoci new --image {layout}:latest",
        f"umoci raw add-layer --image {layout}:latest {tmp_path}/layer.tar",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    (layer,) = fetch_layers(layout_at(f"oci:{layout}:latest"))
    assert layer[:2] == b"\x1f\x8b"


def fail(image: LayoutImage, kind: type[CrfsError], match: str) -> None:
    with pytest.raises(kind, match=match):
        fetch_layers(image)


def test_should_fail_no_layout(tmp_path: Path) -> None:
    fail(layout_at(f"oci:{tmp_path}"), NotFoundError, "not an OCI image layout, '.*/index.json' is missing")
    fail(layout_at(f"oci:{tmp_path}/none"), NotFoundError, "not an OCI image layout")


def test_should_fail_several_images(tmp_path: Path) -> None:
    put_index(tmp_path, put_image(tmp_path, b"one", "one"), put_image(tmp_path, b"two", "two"))
    fail(layout_at(f"oci:{tmp_path}"), NotFoundError, "has 2 images, name one of them: one, two")


def test_should_fail_no_such_name(tmp_path: Path) -> None:
    put_index(tmp_path, put_image(tmp_path, b"one", "one"))
    fail(layout_at(f"oci:{tmp_path}:two"), NotFoundError, "no such image; there is: one")


def test_should_fail_empty_layout(tmp_path: Path) -> None:
    put_index(tmp_path)
    fail(layout_at(f"oci:{tmp_path}"), NotFoundError, "there is: none")


def test_should_fail_missing_blob(tmp_path: Path) -> None:
    entry = put_image(tmp_path, b"one")
    put_index(tmp_path, entry)
    path = tmp_path / "blobs" / "sha256" / entry["digest"][7:]
    path.unlink()
    fail(layout_at(f"oci:{tmp_path}"), NotFoundError, f"{path}: no such file")


def test_should_fail_flipped_bytes(tmp_path: Path) -> None:
    entry = put_image(tmp_path, b"one")
    put_index(tmp_path, entry)
    path = tmp_path / "blobs" / "sha256" / entry["digest"][7:]
    path.write_bytes(path.read_bytes().replace(b"schema", b"Schema"))
    fail(layout_at(f"oci:{tmp_path}"), DigestMismatch, f"{path} has the digest")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"manifests":[{}]}'])
def test_should_fail_malformed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(CrfsError, match="index"):
        fetch_layers(layout_at(f"oci:{tmp_path}"))


def test_should_fail_other_size_than_declared(tmp_path: Path) -> None:
    digest = put(tmp_path, b"12345")
    image = layout_at(f"oci:{tmp_path}")
    config = Descriptor(mediatypes.OCI_CONFIG, digest, 4)
    with pytest.raises(FormatError, match="longer than 4 bytes"):
        asyncio.run(image.fetch_blob(config))
    with pytest.raises(TransportError, match="has 5 bytes, not 4"):
        asyncio.run(image.open_blob(config).fetch_range(0, 1))


def test_should_fail_huge_config(tmp_path: Path) -> None:
    config = Descriptor(mediatypes.OCI_CONFIG, put(tmp_path, b""), 1 << 40)
    with pytest.raises(FormatError, match="too long for a config"):
        asyncio.run(layout_at(f"oci:{tmp_path}").fetch_blob(config))
