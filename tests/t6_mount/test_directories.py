"""Directories as readdir(3) and its relatives list them: offsets, types, inodes, many and long names."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dirstream import Dirent, Stream
from tests.support.layers import Dir, Entry, Fifo, File, Symlink
from tests.support.mounting import crfs_in, run_program
from tests.t6_mount.images import estargz_layer, push

MANY = 3000
DEEP = 300
LEVEL = "twenty-characters-ea"
ENTRIES: list[Entry] = [
    Dir("./"),
    Dir("many"),
    *(File(f"many/file-{number:04}") for number in range(MANY)),
    Dir("types"),
    Dir("types/dir"),
    File("types/file"),
    Symlink("types/link", "file"),
    Fifo("types/fifo"),
    Dir("empty"),
    File("/".join([LEVEL] * DEEP) + "/file", b"deep"),
    File("a" * 255, b"long"),
]


@pytest.fixture(scope="module")
def root(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with crfs_in(tmp_path_factory.mktemp("dirs") / "crfs") as crfs:
        yield crfs.mount(push(registry.address, "directories", estargz_layer(ENTRIES)))


def listed(path: Path) -> list[Dirent]:
    stream = Stream(path)
    try:
        return list(stream)
    finally:
        stream.close()


def test_dots_come_first(root: Path) -> None:
    assert [entry.name for entry in listed(root / "empty")] == [b".", b".."]
    dot, dots, *_ = listed(root / "types")
    assert (dot.inode, dots.inode) == (os.stat(root / "types").st_ino, os.stat(root).st_ino)
    assert os.stat(root / "types/dir/..").st_ino == os.stat(root / "types/.").st_ino


def test_types_and_inodes_are_those_of_stat(root: Path) -> None:
    found = {entry.name: entry for entry in listed(root / "types")}
    assert set(found) == {b".", b"..", b"dir", b"file", b"link", b"fifo"}
    for name, entry in found.items():
        status = os.lstat(os.path.join(os.fsencode(root / "types"), name))
        assert (entry.inode, entry.type << 12) == (status.st_ino, stat.S_IFMT(status.st_mode))


def test_many_names_once_each(root: Path) -> None:
    names = [entry.name for entry in listed(root / "many")]
    assert sorted(names) == [b".", b"..", *(b"file-%04d" % number for number in range(MANY))]
    shown = run_program("ls", "-f1", root / "many").splitlines()
    assert sorted(shown) == sorted(names)


def test_positions_can_be_returned_to(root: Path) -> None:
    stream = Stream(root / "many")
    try:
        positions, names = [stream.tell()], []
        for entry in stream:
            names.append(entry.name)
            positions.append(stream.tell())
        for number in (2500, 0, 1, 2, 1234, MANY + 1, 127, 128, 129, MANY + 2):
            stream.seek(positions[number])
            assert [entry.name for entry in stream][:5] == names[number : number + 5]
    finally:
        stream.close()


def test_rewound_directory_is_read_again(root: Path) -> None:
    stream = Stream(root / "many")
    try:
        before = [next(iter(stream)) for _ in range(1000)]
        stream.rewind()
        assert list(stream)[:1000] == before
    finally:
        stream.close()


def test_paths_may_be_deeper_than_a_path_may_be_long(root: Path) -> None:
    found = run_program("find", root / LEVEL, "-depth", "-name", "file", "-printf", "%d %s")
    assert found == b"%d 4" % DEEP
    directory = os.open(root, os.O_RDONLY)
    for _ in range(DEEP):
        parent, directory = directory, os.open(LEVEL, os.O_RDONLY, dir_fd=directory)
        os.close(parent)
    file = os.open("file", os.O_RDONLY, dir_fd=directory)
    assert os.read(file, 10) == b"deep"
    os.close(file)
    os.close(directory)


def test_longest_name(root: Path) -> None:
    assert (root / ("a" * 255)).read_bytes() == b"long"


@pytest.mark.parametrize("length", [256, 257, 1024, 1025, 4000])
def test_should_fail_name_that_is_too_long(root: Path, length: int) -> None:
    with pytest.raises(OSError) as caught:
        os.stat(root / ("a" * length))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_should_fail_name_that_is_not_there(root: Path) -> None:
    for name in ("missing", "types/missing", "a" * 254, "types/file/x"):
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                os.stat(root / name)
            assert caught.value.errno == (errno.ENOTDIR if name.endswith("/x") else errno.ENOENT)
