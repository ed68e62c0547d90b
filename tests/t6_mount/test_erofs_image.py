"""EROFS images of merged trees: the kernel shows what the tree says, and fsck.erofs has no objection."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from crfs._native.layerindex import LayerIndex
from tests.support.erofsimages import check, expect, mounted, named, need, need_kernel, see, tree_of, write
from tests.support.erofstrees import files, indexes
from tests.support.union_oracle import look_at


@pytest.fixture(autouse=True)
def _needs() -> None:
    need_kernel()
    need("fsck.erofs")


def _compare(place: Path, *layers: LayerIndex) -> None:
    tree, contents = tree_of(*layers)
    seen = look_at(tree)
    image = write(tree, contents, place / "image")
    check(image)
    with mounted(image, place / "mount") as root:
        assert see(root) == expect(seen, named(tree, contents, list(seen)))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(layer=indexes())
def test_any_tree(layer: LayerIndex) -> None:
    with tempfile.TemporaryDirectory() as place:
        _compare(Path(place), layer)


def test_nothing_but_a_root(tmp_path: Path) -> None:
    _compare(tmp_path, files([]))


@pytest.mark.parametrize("length", [1, 200, 255])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 300, 5000])
def test_directories_of_any_size(tmp_path: Path, length: int, count: int) -> None:
    names = [b"%0*d" % (length, number) for number in range(min(count, 10**length))]
    _compare(tmp_path, files([b"d/" + name for name in names]))


def test_more_inodes_than_fit_in_a_piece(tmp_path: Path) -> None:
    _compare(tmp_path, files([b"%d/%d" % (number // 100, number) for number in range(20_000)]))


def test_inodes_up_to_the_end_of_a_block(tmp_path: Path) -> None:
    # 32 bytes each, behind the root and its names
    for count in range(70, 100):
        index = LayerIndex()
        for number in range(count):
            index.add(b"%02d" % number, stat.S_IFIFO | 0o600, 0, 0, 0, 0, 0, b"", None)
        index.seal(1)
        tree, contents = tree_of(index)
        check(write(tree, contents, tmp_path / "image"))


def test_xattrs_over_several_blocks(tmp_path: Path) -> None:
    many = {b"user.%d" % number: b"v" * number for number in range(200)}
    _compare(tmp_path, files([b"a", b"b"], xattrs=many), files([b"c"], xattrs={b"user.0": b"v" * 65535}))


def test_shared_xattrs_have_an_end(tmp_path: Path) -> None:
    layers = [files([b"%d/a" % n, b"%d/b" % n], xattrs={b"user.x": b"%05d" % n * 9000}) for n in range(40)]
    _compare(tmp_path, *layers)


def test_acls(tmp_path: Path) -> None:
    acl = bytes.fromhex(
        "02000000 01000600ffffffff 0200060001000000 04000400ffffffff 10000600ffffffff 20000000ffffffff"
    )
    index = LayerIndex()
    index.add(b"f", stat.S_IFREG | 0o640, 0, 0, 0, 0, 0, b"", {b"system.posix_acl_access": acl})
    index.add(
        b"g", stat.S_IFREG | 0o640, 0, 0, 0, 0, 0, b"", {b"system.posix_acl_access": b"\2\0\0\0rubbish"}
    )
    index.add(b"h", stat.S_IFREG | 0o640, 0, 0, 0, 0, 0, b"", {b"system.unknown": b"1", b"lustre.x": b"1"})
    index.seal(1)
    tree, contents = tree_of(index)
    with mounted(write(tree, contents, tmp_path / "image"), tmp_path / "mount") as root:
        assert os.getxattr(root / "f", "system.posix_acl_access") == acl
        # with one that is none, nobody could use the file
        assert os.listxattr(root / "g") == []
        assert os.listxattr(root / "h") == []


def test_holes_are_read_as_zeros(tmp_path: Path) -> None:
    index = LayerIndex()
    index.add(b"f", stat.S_IFREG | 0o640, 0, 0, 1 << 50, 0, 0, b"", None)
    index.seal(1)
    tree, contents = tree_of(index)
    image = write(tree, contents, tmp_path / "image")
    with mounted(image, tmp_path / "mount") as root, (root / "f").open("rb") as file:
        for off in (0, 1 << 43, (1 << 50) - 10):
            file.seek(off)
            assert file.read(10) == bytes(10)
        assert file.read(1) == b""
