"""Stacks of tars as an image, and what umoci makes of it on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from benches.commands import run


def unpacked(directory: Path, tars: Sequence[bytes]) -> Path:
    """The root directory that umoci makes of uncompressed layers, bottom first; CommandFailed where it refuses."""
    _write_layout(directory / "layout", tars)
    run("umoci", "raw", "unpack", "--image", f"{directory / 'layout'}:latest", directory / "rootfs")
    return directory / "rootfs"


def _write_layout(layout: Path, tars: Sequence[bytes]) -> None:
    """An OCI layout with one image, `latest`."""
    (layout / "blobs/sha256").mkdir(parents=True)
    layers = [_blob(layout, tar, "layer.v1.tar") for tar in tars]
    diff_ids = [layer["digest"] for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "config": _blob(layout, json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    named = _blob(layout, json.dumps(manifest).encode(), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _blob(layout: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {
        "mediaType": f"application/vnd.oci.image.{media_type}",
        "digest": f"sha256:{digest}",
        "size": len(data),
    }
