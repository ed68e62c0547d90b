"""The command lines that crfs-plugin documents, mounted: images and layers lie under an upper directory."""

import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.faults import FaultProxy, make_certificate
from tests.support.layers import Dir, File
from tests.support.mounting import Crfs, crfs_in, need_fuse, run_program
from tests.t6_integrations.test_command import run
from tests.t6_mount.images import push, stargz_layer

LAYERS = [
    stargz_layer([Dir("./"), Dir("dir"), File("dir/low", b"bottom"), File("both", b"bottom")]),
    stargz_layer([Dir("./"), File("both", b"top"), File("top", b"top")]),
]
STARGZ = LAYERS[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The README's directories, and a layer."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "layer.tar.gz").write_bytes(STARGZ.data)
    return tmp_path


@pytest.fixture
def crfs(place: Path) -> Iterator[Crfs]:
    need_fuse()
    with crfs_in(place) as commands:
        yield commands


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


def lower(source: str, place: Path) -> str:
    """As the shell makes it of `//crfs/$(echo -n SOURCE | base64 -w0)/$(pwd)/lower`."""
    return f"//crfs/{b64encode(source.encode()).decode()}/{place}/lower"


def mount(crfs: Crfs, place: Path, lowerdir: str) -> Path:
    options = f"fast_ino=1,plugins=/path/to/crfs-plugin.so,lowerdir={lowerdir},upperdir=upper,workdir=work"
    assert run("-o", options, "merged", crfs=crfs, cwd=place).silent
    return place / "merged"


def check_layer(at: Path, place: Path) -> None:
    assert sorted(os.listdir(at)) == ["both", "dir"]
    assert (at / "dir/low").read_bytes() == b"bottom"
    (at / "dir/low").write_bytes(b"changed")
    assert (place / "upper/dir/low").read_bytes() == b"changed"
    assert os.listdir(place / "lower") == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_file(place: Path, crfs: Crfs, scheme: str) -> None:
    at = mount(crfs, place, lower(f"{scheme}{place}/layer.tar.gz", place))
    check_layer(at, place)


def test_url(place: Path, crfs: Crfs, registry: Registry) -> None:
    source = push(registry.address, "url", STARGZ)
    repository = source.removeprefix("docker://").removesuffix(":v1").partition("/")[2]
    url = f"http://{registry.address}/v2/{repository}/blobs/{STARGZ.digest}"
    check_layer(mount(crfs, place, lower(url, place)), place)


def test_https_url(place: Path, crfs: Crfs, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(place)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with FaultProxy({"/layer.tar.gz": STARGZ.data}, tls=certificate) as server:
        check_layer(mount(crfs, place, lower(f"{server.url}/layer.tar.gz", place)), place)
        run_program("umount", place / "merged")
        crfs.expect_nothing()


def test_image_has_all_its_layers_the_last_on_top(place: Path, crfs: Crfs, registry: Registry) -> None:
    at = mount(crfs, place, lower(push(registry.address, "image", *LAYERS), place))
    assert sorted(os.listdir(at)) == ["both", "dir", "top"]
    assert (at / "both").read_bytes() == b"top"
    assert (at / "dir/low").read_bytes() == b"bottom"


@pytest.mark.parametrize("over", [True, False])
def test_mixed_with_directories(place: Path, crfs: Crfs, over: bool) -> None:
    (place / "plain").mkdir()
    (place / "plain/both").write_bytes(b"plain")
    (place / "plain/only").touch()
    image = lower(f"{place}/layer.tar.gz", place)
    at = mount(crfs, place, f"plain:{image}" if over else f"{image}:plain")
    assert sorted(os.listdir(at)) == ["both", "dir", "only"]
    assert (at / "both").read_bytes() == (b"plain" if over else b"bottom")


def test_old_stargz_is_read_lazily_with_the_warning(place: Path, crfs: Crfs, registry: Registry) -> None:
    mount(crfs, place, lower(push(registry.address, "lazy", STARGZ), place))
    assert len(crfs.log.splitlines()) == 1
    assert STARGZ.digest in crfs.log
    assert "it is read before it is verified" in crfs.log
