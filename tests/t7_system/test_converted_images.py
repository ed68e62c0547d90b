"""Converted images, read by everyone else; and layers that buildah writes, mounted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from benches import images
from benches.commands import run
from benches.containerd import Containerd, containerd
from benches.recipes.quirks import UNTIMED
from crfs.formats.toc import RESERVED_NAMES
from crfs.registry.server import Registry
from tests.support.compare import compare_trees
from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import Crfs, crfs_in
from tests.support.podman import Podman, need_podman, podman_in

WAYS = [
    "--format estargz --prioritize *a*",
    "--format estargz --external-toc --keep-diff-id",
    "--format zstd:chunked",
    "--format zstd:chunked --dialect stargz",
]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as running:
        yield running


@pytest.fixture
def crfs(tmp_path: Path) -> Iterator[Crfs]:
    need_root()
    with crfs_in(tmp_path / "crfs") as crfs:
        yield crfs


def convert(crfs: Crfs, source: str, target: str, way: Sequence[str]) -> None:
    done = crfs.run("convert", *way, source, target)
    assert (done.status, done.err) == (0, "")


def differences(tree: Path, oracle: Path, untimed: Collection[bytes] = UNTIMED) -> list[str]:
    """All but what a converter adds to the tar."""
    own = tuple(repr(name.encode()) for name in RESERVED_NAMES)
    return [line for line in compare_trees(tree, oracle, untimed=untimed) if not line.startswith(own)]


@pytest.mark.parametrize("way", WAYS)
def test_mount_and_umoci_show_the_same(crfs: Crfs, registry: Registry, tmp_path: Path, way: str) -> None:
    need_programs([*images.PROGRAMS])
    ref = f"docker://{registry.address}/quirks:v1"
    convert(crfs, f"oci:{images.layout('quirks')}:plain", ref, way.split())
    oracle = images.oracle("quirks")
    assert compare_trees(crfs.mount(ref), oracle, untimed=UNTIMED) == []
    # this umoci knows no zstd
    run("skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-decompress", ref, f"dir:{tmp_path}/plain")
    run("skopeo", "copy", "-q", f"dir:{tmp_path}/plain", f"oci:{tmp_path}/layout:v1")
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:v1", tmp_path / "bundle")
    assert differences(tmp_path / "bundle/rootfs", oracle) == []


@pytest.fixture
def podman(tmp_path: Path, crfs: Crfs) -> Iterator[Podman]:
    need_podman()
    place = tmp_path / "podman"
    place.mkdir()
    with podman_in(place, crfs) as podman:
        yield podman


def test_what_buildah_pushes_is_mounted(crfs: Crfs, podman: Podman, registry: Registry) -> None:
    pushed, root = f"{registry.address}/base", podman.place / "root"
    # podman import keeps whole seconds
    names = [os.fsencode(path.relative_to(root)) for path in (root, *root.rglob("*"))]
    for name in ("gzip", "zstd", "zstd:chunked"):
        ref = f"docker://{pushed}:{name.replace(':', '-')}"
        podman.sh(f"buildah push -q --tls-verify=false --compression-format {name} base {ref}")
        at = crfs.mount(ref)
        assert compare_trees(at, root, untimed=names) == []
        crfs.umount(at)


def test_podman_runs_it_and_containerd_unpacks_it(crfs: Crfs, podman: Podman, registry: Registry) -> None:
    need_programs(["containerd", "ctr"])
    source, root = f"docker://{registry.address}/base:gzip", podman.place / "root"
    names = [os.fsencode(path.relative_to(root)) for path in (root, *root.rglob("*"))]
    podman.sh(f"buildah push -q --tls-verify=false base {source}")
    made = [f"{registry.address}/made:v{number}" for number in range(len(WAYS))]
    for ref, way in zip(made, WAYS, strict=True):
        convert(crfs, source, f"docker://{ref}", way.split())
        podman.sh(f"podman pull -q --tls-verify=false {ref}")
        assert "user:x:1000" in podman.sh(f"podman run --rm $RUN {ref} cat /etc/passwd")
    with containerd(podman.place) as daemon:
        for ref in made:
            assert differences_in_containerd(daemon, ref, podman.place / "mnt", root, names) == []


def differences_in_containerd(
    daemon: Containerd, ref: str, at: Path, root: Path, untimed: Collection[bytes]
) -> list[str]:
    ctr = ("ctr", "-a", daemon.socket, "images")
    at.mkdir()
    run(*ctr, "pull", "--plain-http", ref)
    run(*ctr, "mount", ref, at)
    try:
        return differences(at, root, untimed)
    finally:
        run(*ctr, "unmount", "--rm", at)
        at.rmdir()
