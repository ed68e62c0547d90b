"""The frame of an EROFS image, its limits, and names of contents. t6_mount/test_erofs_image has the kernel look."""

import hashlib
import stat
import subprocess
from pathlib import Path

import pytest

from crfs._native.contents import Contents
from crfs._native.erofs import Writer
from crfs._native.layerindex import LayerIndex
from crfs.errors import FormatError
from crfs.formats.erofs import BLOCK, write_image
from tests.support.erofsimages import UUID, check, need, tree_of, write
from tests.support.erofstrees import files

_REG = stat.S_IFREG | 0o644
_DIGEST = hashlib.sha256(b"content").digest()


def _file(size: int, *chunks: tuple[int, int, int, bytes | None]) -> LayerIndex:
    """`f`, with chunks (file_off, size, blob_off, digest)."""
    index = LayerIndex()
    index.add(b"f", _REG, 0, 0, size, 0, 0, b"", None)
    for file_off, length, blob_off, digest in chunks:
        index.add_chunk(file_off, length, blob_off, 0, digest)
    index.seal(1 << 40)
    return index


def _name(*layers: LayerIndex, ids: list[bytes] | None = None) -> bytes | None:
    tree, contents = tree_of(*layers)
    if ids:
        contents = Contents(tree, ids)
    name = contents.name(2)
    assert name is None or contents.find(name) == 2
    return name


def test_superblock(tmp_path: Path) -> None:
    need("dump.erofs")
    image = write(*tree_of(files([b"a", b"b"])), tmp_path / "image")
    check(image)
    shown = subprocess.run(["dump.erofs", "-s", image], capture_output=True, text=True, check=True).stdout
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in shown.splitlines())
    }
    assert facts["Filesystem UUID"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert facts["Filesystem inode count"] == "3"
    assert int(facts["Filesystem blocks"]) * BLOCK == image.stat().st_size
    assert set(facts["Filesystem features"].split()) == {"sb_csum", "chunked_file"}


@pytest.mark.parametrize("off", [1024 + 16, 2000])
def test_should_fail_the_check_when_damaged(tmp_path: Path, off: int) -> None:
    need("fsck.erofs")
    image = write(*tree_of(files([b"a"])), tmp_path / "image")
    with image.open("r+b") as file:
        file.seek(off)
        file.write(b"\xaa")
    with pytest.raises(AssertionError):
        check(image)


def test_same_tree_same_bytes_in_pieces() -> None:
    paths = [b"%d/%d" % (number // 50, number) for number in range(30_000)]
    pieces = [list(write_image(*tree_of(files(paths)), UUID)) for _ in range(2)]
    assert pieces[0] == pieces[1]
    assert len(pieces[0]) > 3
    assert all(len(piece) < (1 << 20) + (1 << 16) for piece in pieces[0])


def test_what_most_inodes_share_is_said_once() -> None:
    paths = [b"%d" % number for number in range(400)]
    writers = [Writer(*tree_of(files(paths, mtimes_ns=times))) for times in ([7], range(400))]
    assert writers[0].epoch_ns == 7
    assert writers[0].blocks < writers[1].blocks
    assert [sum(map(len, writer)) for writer in writers] == [writer.blocks * BLOCK for writer in writers]


@pytest.mark.parametrize(
    "xattrs",
    [
        {b"user.x": b"v" * 65536},
        {b"trusted.overlay." + b"x" * 239: b""},
        {b"user.%d" % number: b"v" * 60_000 for number in range(5)},
    ],
    ids=["value", "escaped", "all"],
)
def test_should_fail_for_xattrs_that_erofs_has_no_room_for(xattrs: dict[bytes, bytes]) -> None:
    with pytest.raises(FormatError, match="extended attribute"):
        list(write_image(*tree_of(files([b"a"], xattrs=xattrs)), UUID))


# names of contents


def test_a_file_of_one_chunk_is_called_by_its_digest() -> None:
    digest = _DIGEST.hex()
    assert _name(_file(7, (0, 7, 10, _DIGEST))) == f"{digest[:2]}/{digest}".encode()


@pytest.mark.parametrize(
    "index",
    [
        _file(7, (0, 7, 10, None)),
        _file(8, (0, 7, 10, _DIGEST)),
        _file(8, (1, 7, 10, _DIGEST)),
        _file(14, (0, 7, 10, _DIGEST), (7, 7, 20, _DIGEST)),
    ],
    ids=["no digest", "hole behind", "hole before", "two chunks"],
)
def test_any_other_by_its_parts(index: LayerIndex) -> None:
    name = _name(index)
    assert name is not None
    assert name.endswith(b".parts")


def test_equal_parts_of_different_blobs_have_one_name() -> None:
    chunks = [(0, 7, _DIGEST), (7, 7, _DIGEST)]
    names = {
        _name(_file(14, *((off, size, far + off, digest) for off, size, digest in chunks))) for far in (0, 99)
    }
    assert len(names) == 1


def test_without_digests_layer_and_place_count() -> None:
    def name(layer: bytes, off: int) -> bytes | None:
        return _name(_file(7, (0, 7, off, None)), ids=[layer])

    assert name(b"a", 10) == name(b"a", 10)
    assert len({name(b"a", 10), name(b"a", 20), name(b"b", 10)}) == 3


@pytest.mark.parametrize("size", [0, 100])
def test_nothing_and_a_hole_have_no_name(size: int) -> None:
    assert _name(_file(size)) is None


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"ab",
        b"00/" + b"0" * 64,
        b"ab/ab" + b"g" * 62,
        b"ab/ab" + b"0" * 62 + b".parts",
        b"ab0ab" + b"0" * 62,
        b"%(b)b/%(a)b" % {b"a": _DIGEST.hex().encode(), b"b": b"00"},
        b"ab/ab" + b" " * 62,
    ],
)
def test_should_not_find_what_is_no_name(name: bytes) -> None:
    _, contents = tree_of(_file(7, (0, 7, 10, _DIGEST)))
    assert contents.find(name) == 0


def test_a_name_of_the_other_kind_is_another() -> None:
    _, contents = tree_of(_file(7, (0, 7, 10, _DIGEST)))
    name = contents.name(2)
    assert name is not None
    assert contents.find(name + b".parts") == 0


def test_should_fail_without_a_name_for_each_layer() -> None:
    tree, _ = tree_of(_file(7, (0, 7, 10, None)))
    with pytest.raises(IndexError):
        Contents(tree, [])
