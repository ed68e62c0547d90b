"""What convert/ writes, against stargz-snapshotter's own converter; both go through the embedded registry."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.commands import run
from benches.containerd import Containerd, containerd
from crfs.convert.image import LayerFile, Run, push_image
from crfs.convert.layout import LayoutPusher
from crfs.convert.lazylayer import ConvertedLayer, Options, write_layer
from crfs.formats.toc import iter_toc
from crfs.registry.server import Registry
from tests.support.layers import Device, Dir, Entry, Fifo, File, Hardlink, Symlink, to_tar_entry, wanted_first
from tests.support.rawregistry import Client
from tests.t5_convert.test_estargz import toc_json

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("containerd", "ctr", "ctr-remote", "skopeo"))),
    reason="containerd, ctr-remote and skopeo are not all installed",
)
TREE: list[Entry] = [
    Dir("./", mode=0o700),
    Dir("usr", uid=1, gid=2, uname="one", gname="two"),
    File("usr/file", b"x" * 2500, mode=0o4755, uid=1, uname="one"),
    File("usr/empty", xattrs={"user.k": b"\0\xff", "security.capability": b"cap"}),
    File("usr/larger", bytes(range(256)) * 33_000),
    Symlink("link", "usr/file"),
    Hardlink("hard", "usr/file"),
    Device("null", 1, 3),
    Device("disk", 8, 1, block=True),
    Fifo("fifo", mode=0o600, mtime_ns=0),
    File("long/" + "é" * 120, b"long"),
]


@pytest.fixture(scope="module")
def reference() -> Iterator[Containerd]:
    with containerd() as running:
        yield running


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def push(registry: Registry, scratch: Path, options: Options) -> tuple[bytes, ConvertedLayer]:
    """Push TREE as ours:v1, with `ordered` two of its files in front; the layer."""
    blob = scratch / "layer"
    tree = [to_tar_entry(entry) for entry in TREE]
    with blob.open("wb") as out:
        converted = write_layer(
            wanted_first(tree, ["usr/file", "hard"]) if options.ordered else tree, out, options
        )
    layout = scratch / "layout"
    asyncio.run(push_image(LayoutPusher(layout), [LayerFile(blob, converted)], Run(), "v1"))
    run(
        "skopeo",
        "copy",
        "--dest-tls-verify=false",
        f"oci:{layout}:v1",
        f"docker://{registry.address}/ours:v1",
    )
    return blob.read_bytes(), converted


def entries(blob: bytes) -> list[object]:
    """The TOC's entries but for where they are, and for the landmark, whose mode is nobody's business."""
    found = list(iter_toc(toc_json(blob)))
    for entry in found:
        entry.offset = 0
    return [entry for entry in found if entry.name != ".no.prefetch.landmark"]


def test_toc_is_that_of_the_reference(reference: Containerd, registry: Registry, tmp_path: Path) -> None:
    ours, _ = push(registry, tmp_path, Options())
    reference.fetch(f"{registry.address}/ours:v1")
    reference.convert(f"{registry.address}/ours:v1", f"{registry.address}/theirs:v1", "--estargz", "--oci")
    client = Client(registry.address)
    manifest = json.loads(client.ask("GET", "/v2/theirs/manifests/v1").body)
    theirs = client.ask("GET", f"/v2/theirs/blobs/{manifest['layers'][0]['digest']}").body
    assert entries(theirs) == entries(ours)


@pytest.mark.parametrize(
    "options",
    [
        Options(chunk_size=1000),
        Options(chunk_size=1 << 20, min_chunk_size=1 << 16),
        Options(ordered=True),
    ],
)
def test_reference_verifies_the_toc(
    reference: Containerd, registry: Registry, tmp_path: Path, options: Options
) -> None:
    _, converted = push(registry, tmp_path, options)
    reference.fetch(f"{registry.address}/ours:v1")
    told = run("ctr-remote", "-a", reference.socket, "images", "get-toc-digest", converted.digest)
    assert told.strip() == converted.toc_digest
