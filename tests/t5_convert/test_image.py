"""Trees on disk into images, read back by skopeo and umoci."""

import asyncio
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from crfs.convert.entries import iter_tar, list_tar
from crfs.convert.image import LayerFile, Run, push_image
from crfs.convert.layout import LayoutPusher
from crfs.convert.lazylayer import Options, write_layer
from crfs.convert.tree import TreeReader
from crfs.errors import DigestMismatch
from crfs.formats.platforms import Platform
from tests.support.layers import File, make_tar, wanted_first


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with one of each."""
    root = tmp_path / "tree"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"content" * 100)
    (root / "dir/file").chmod(0o4751)
    os.link(root / "dir/file", root / "dir/sub/hard")
    (root / "link").symlink_to("dir/file")
    os.mkfifo(root / "fifo", 0o600)
    os.utime(root / "dir/file", ns=(0, 1_700_000_000_123_456_789))
    os.utime(root / "fifo", ns=(0, -500_000_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    return root


def convert(root: Path, blob: Path, name: str = ".") -> LayerFile:
    with blob.open("wb") as out:
        return LayerFile(blob, write_layer(TreeReader().iter_tree(str(root), name), out))


def test_tree_becomes_a_layer(tree: Path, tmp_path: Path) -> None:
    layer = convert(tree, tmp_path / "blob")
    with tarfile.open(layer.path) as tar:
        found = {info.name: info for info in tar}
    assert list(found) == [
        ".no.prefetch.landmark",
        *(".", "./dir", "./dir/file", "./dir/sub", "./dir/sub/hard", "./fifo", "./link"),
        "stargz.index.json",
    ]
    file = found["./dir/file"]
    assert (file.mode, file.size, file.pax_headers["mtime"]) == (0o4751, 700, "1700000000.123456789")
    assert (found["./dir/sub/hard"].type, found["./dir/sub/hard"].linkname) == (tarfile.LNKTYPE, "./dir/file")
    assert found["./link"].linkname == "dir/file"
    assert found["./fifo"].pax_headers["mtime"] == "-0.5"


def test_tree_below_a_name(tree: Path, tmp_path: Path) -> None:
    layer = convert(tree / "dir", tmp_path / "blob", "opt/x")
    with tarfile.open(layer.path) as tar:
        assert tar.getnames()[1:-1] == ["opt/x", "opt/x/file", "opt/x/sub", "opt/x/sub/hard"]


def test_extended_attributes_of_a_tree(tree: Path, tmp_path: Path) -> None:
    try:
        os.setxattr(tree / "dir", "user.k", b"\0\xff")
    except OSError:
        pytest.skip("the file system has no user attributes")
    layer = convert(tree, tmp_path / "blob")
    with tarfile.open(layer.path) as tar:
        record = tar.getmember("./dir").pax_headers["SCHILY.xattr.user.k"]
    assert record.encode("utf-8", "surrogateescape") == b"\0\xff"


def test_should_fail_tree_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "missing", tmp_path / "blob")


def test_priorities_from_a_tar_on_disk(tmp_path: Path) -> None:
    tar_file = tmp_path / "x.tar"
    tar_file.write_bytes(make_tar([File("a", b"a"), File("b", b"b"), File("c", b"c")]))
    out = io.BytesIO()
    with tarfile.open(tar_file) as tar:
        write_layer(wanted_first(list_tar(tar), ["c", "b"]), out, Options(ordered=True))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == ["c", "b", ".prefetch.landmark", "a", "stargz.index.json"]


def test_image_in_a_layout(tree: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    base, top = convert(tree, tmp_path / "base"), convert(tree / "dir", tmp_path / "top", "opt")
    run = Run(("/bin/x",), ("-y",), ("A=b",), "/opt")
    platform = Platform("linux", "arm64", "v8")
    digest = asyncio.run(push_image(LayoutPusher(layout), [base, top], run, "v1", platform))

    def blob(digest: str) -> bytes:
        return (layout / "blobs/sha256" / digest.partition(":")[2]).read_bytes()

    manifest = json.loads(blob(digest))
    assert [layer["digest"] for layer in manifest["layers"]] == [
        base.converted.digest,
        top.converted.digest,
    ]
    assert manifest["layers"][0]["annotations"] == base.converted.annotations
    config = json.loads(blob(manifest["config"]["digest"]))
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm64", "v8")
    assert config["config"] == {
        "Entrypoint": ["/bin/x"],
        "Cmd": ["-y"],
        "Env": ["A=b"],
        "WorkingDir": "/opt",
    }
    assert config["rootfs"]["diff_ids"] == [base.converted.diff_id, top.converted.diff_id]
    assert len(gzip.decompress(blob(base.converted.digest))) == base.converted.uncompressed_size


def test_images_of_a_layout_by_name(tree: Path, tmp_path: Path) -> None:
    layout, layer = tmp_path / "layout", convert(tree, tmp_path / "blob")
    for name, cmd in (("a", "1"), ("b", "1"), ("a", "2")):
        asyncio.run(push_image(LayoutPusher(layout), [layer], Run(cmd=(cmd,)), name))
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == ["b", "a"]
    assert len({entry["digest"] for entry in entries}) == 2
    assert not [path for path in (layout / "blobs/sha256").iterdir() if path.name.startswith(".")]


def test_should_fail_blob_of_another_digest(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        asyncio.run(LayoutPusher(tmp_path).push_blob(b"abc", "sha256:" + "0" * 64))
    assert not list((tmp_path / "blobs/sha256").iterdir())


@pytest.mark.skipif(not shutil.which("umoci"), reason="umoci is not installed")
def test_umoci_unpacks_it(tree: Path, tmp_path: Path) -> None:
    layer = convert(tree, tmp_path / "blob")
    asyncio.run(push_image(LayoutPusher(tmp_path / "layout"), [layer], Run(), "v1"))
    image = f"{tmp_path}/layout:v1"
    command = ["umoci", "unpack", "--image", image, f"{tmp_path}/bundle"]
    if os.geteuid():
        command.insert(2, "--rootless")
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    rootfs = tmp_path / "bundle/rootfs"
    assert (rootfs / "dir/file").read_bytes() == b"content" * 100
    assert (rootfs / "dir/file").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (rootfs / "dir/file").samefile(rootfs / "dir/sub/hard")
    assert (rootfs / "link").readlink() == Path("dir/file")


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_copies_it(tree: Path, tmp_path: Path) -> None:
    """skopeo verifies digests and diff_ids when it decompresses."""
    layer = convert(tree, tmp_path / "blob")
    asyncio.run(push_image(LayoutPusher(tmp_path / "layout"), [layer], Run(), "v1"))
    command = ["skopeo", "copy", "--dest-decompress", f"oci:{tmp_path}/layout:v1", f"dir:{tmp_path}/out"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    copied = tmp_path / "out" / manifest["layers"][0]["digest"].partition(":")[2]
    with copied.open("rb") as tar:
        assert "dir/sub/hard" in [entry.name for entry in iter_tar(tar)]
