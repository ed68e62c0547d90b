"""Mountpoints and other paths with all that a path may have in it."""

import os
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dockerregistry import need_root
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs
from tests.t6_mount.images import estargz_layer, noise, noisy, push, tar_layer, write_layout

LARGE = 200_000
ENTRIES: list[Entry] = [Dir("./"), Dir("dir"), noisy("one", LARGE), noisy("two", LARGE), File("small", b"s")]


@pytest.fixture(scope="session")
def source(registry: Registry) -> str:
    return push(registry.address, "places", estargz_layer(ENTRIES))


def check(at: Path) -> None:
    assert sorted(os.listdir(at)) == ["dir", "one", "small", "two"]
    assert (at / "one").read_bytes() == noise("one", LARGE)


@pytest.mark.parametrize(
    "name",
    [
        "with blanks, a comma#:=, back\\slashes\\040",
        "new\nline",
        "ünïcödé ☃\r\t\u2028\x85\x1c",
        "not\udcffutf8",
        "per%cent %s {}",
        "x" * 255,
    ],
)
def test_name(source: str, crfs: Crfs, name: str) -> None:
    at = crfs.place / name
    at.mkdir()
    crfs.mount(source, at=at)
    check(at)
    assert [line.at for line in crfs.mounts()] == [at]
    assert len(crfs.states()) == 1
    crfs.umount(at)
    assert not crfs.leftovers()


def test_other_mount_of_a_strange_name_is_in_nobodys_way(source: str, crfs: Crfs) -> None:
    strange = crfs.place / "a\rb\x85c"
    strange.mkdir()
    crfs.mount(source, at=strange)
    at = crfs.mount(source)
    check(at)
    crfs.umount(at)
    check(strange)


def test_symbolic_link(source: str, crfs: Crfs) -> None:
    real = crfs.new_directory()
    link = crfs.place / "link"
    link.symlink_to(real.name)
    crfs.mount(source, at=link)
    check(real)
    check(link)
    assert [line.at for line in crfs.mounts()] == [real]
    crfs.umount(link)
    crfs.mount(source, at=link)
    crfs.umount(real)
    assert not crfs.leftovers()


def test_symbolic_link_on_the_way(source: str, crfs: Crfs) -> None:
    (crfs.place / "a/b").mkdir(parents=True)
    (crfs.place / "link").symlink_to(crfs.place / "a")
    crfs.mount(source, at=crfs.place / "link/b")
    check(crfs.place / "a/b")
    crfs.umount(crfs.place / "link/b")


def test_roundabout_path(source: str, crfs: Crfs) -> None:
    at = crfs.new_directory()
    done = crfs.run("mount", source, f"{at}//../{at.name}/./")
    assert done.silent
    check(at)
    done = crfs.run("umount", f"{at}/")
    assert done.silent


def test_relative_paths(crfs: Crfs, tmp_path: Path) -> None:
    """The daemon leaves for `/`, and reads on."""
    here = tmp_path / "here"
    (here / "mnt").mkdir(parents=True)
    write_layout(here / "layout", estargz_layer(ENTRIES))
    options = ("--cache", "cache", "--log-file", "logs/log")
    done = crfs.run("mount", "oci:layout:v1", "../here/mnt", *options, cwd=here)
    assert done.silent
    check(here / "mnt")
    assert (here / "mnt/two").read_bytes() == noise("two", LARGE)
    assert list((here / "cache/chunks").iterdir())
    assert (here / "logs/log").read_text() == ""
    assert crfs.run("umount", "mnt", cwd=here).silent
    crfs.expect_nothing()


@pytest.mark.parametrize("layer", [estargz_layer, tar_layer])
@pytest.mark.parametrize("name", ["./blob", "file://blob"])
def test_relative_blob(crfs: Crfs, tmp_path: Path, layer: type, name: str) -> None:
    (tmp_path / "blob").write_bytes(layer(ENTRIES).data)
    at = crfs.mount(name, cwd=tmp_path)
    check(at)


def test_place_that_is_not_empty(source: str, crfs: Crfs) -> None:
    at = crfs.new_directory()
    (at / "covered").touch()
    crfs.mount(source, "-o", "nonempty", at=at)
    check(at)
    crfs.umount(at)
    assert os.listdir(at) == ["covered"]


def test_mount_in_a_mount(source: str, crfs: Crfs) -> None:
    need_root()
    outer = crfs.mount(source)
    crfs.mount(source, at=outer / "dir")
    check(outer / "dir")
    assert crfs.run("umount", outer).status == 1
    crfs.umount(outer / "dir")
    assert os.listdir(outer / "dir") == []
    crfs.umount(outer)
