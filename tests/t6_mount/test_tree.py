"""What programs see of a mounted tree, against the same layers unpacked by GNU tar."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.compare import compare_trees
from tests.support.dockerregistry import need_root
from tests.support.layers import Device, Dir, Entry, Fifo, File, Hardlink, Symlink
from tests.support.mounting import Crfs, crfs_in, run_program
from tests.t6_mount.images import SMALL, Layer, estargz_layer, noisy, push, tar_layer

DAY_NS = 86400 * 10**9
ROOT = Dir("./", mode=0o1771, uid=3, gid=4)
LOWER: list[Entry] = [
    ROOT,
    Dir("dir", mode=0o1777, uid=1000, gid=1001),
    Dir("dir/closed", mode=0o2700, uid=1000, gid=100),
    Dir("dir/empty"),
    File("dir/setuid", b"#!/bin/sh\n", mode=0o4755),
    File("dir/setgid", b"x", mode=0o2755, gid=1001),
    File("dir/nothing", b"closed", mode=0o000),
    File("dir/empty-file"),
    noisy("dir/chunks", 250_000),
    noisy("dir/boundary", 120_000),
    # all of dir in one go: tar sets its time as soon as another directory's turn comes
    Hardlink("dir/hard", "dir/chunks"),
    File("zeros", bytes(100_000)),
    File("old", b"old", mtime_ns=-DAY_NS),
    File("future", b"future", mtime_ns=2**33 * 10**9),
    File("owner", b"x", uid=2**32 - 2, gid=2**31),
    Hardlink("harder", "dir/hard"),
    Symlink("link", "dir/chunks", uid=7),
    Symlink("dangling", "nowhere"),
    Symlink("absolute", "/etc/hostname"),
    Symlink("long", "x/" * 2000),
    Hardlink("second-link", "link"),
    Device("null", 1, 3, mode=0o666),
    Device("disk", 8, 17, block=True, mode=0o660, gid=6),
    Device("large", 4095, 2**20 - 1),
    Fifo("fifo", mode=0o620, uid=5),
]
NAMES = [
    "x" * 255,
    "\udcff\udcfe",
    "é",
    "e\u0301",
    " ",
    "\n",
    "-rf",
    "back\\slash",
    "quote'\"",
    "\u2028",
    "é" * 127,
]
UPPER: list[Entry] = [
    ROOT,
    Dir("names"),
    *(File(f"names/{name}", name.encode("utf-8", "surrogateescape")) for name in NAMES),
    Dir("names/dir\udc80"),
    File("names/dir\udc80/file", b"x", mtime_ns=1_700_000_000_123_456_789),
    Symlink("names/to\udc80", "dir\udc80/file"),
]  # fmt: skip
# both layers have the root
NAME_COUNT = len(LOWER) + len(UPPER) - 1


@dataclass(frozen=True, slots=True)
class Tree:
    """An image, mounted and unpacked."""

    source: str
    mount: Path
    oracle: Path


@pytest.fixture(scope="module")
def tree(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    need_root()
    scratch = tmp_path_factory.mktemp("tree")
    layers = estargz_layer(LOWER, chunk_size=60_000), tar_layer(UPPER)
    source = push(registry.address, "tree", *layers)
    oracle = scratch / "oracle"
    oracle.mkdir()
    for layer in layers:
        _unpack(layer, oracle)
    with crfs_in(scratch / "crfs") as crfs:
        yield Tree(source, crfs.mount(source), oracle)


def _unpack(layer: Layer, directory: Path) -> None:
    tar = directory.with_name("layer.tar")
    tar.write_bytes(layer.data)
    left_out = ("--exclude=stargz.index.json", "--exclude=.no.prefetch.landmark")
    run_program("tar", "-xp", "--numeric-owner", "-f", tar, "-C", directory, *left_out)


def test_everything_is_as_unpacked(tree: Tree) -> None:
    assert compare_trees(tree.mount, tree.oracle) == []


def test_tar_archives_the_same(tree: Tree) -> None:
    command = ["tar", "-c", "--sort=name", "--format=pax", "--numeric-owner", "--pax-option"]
    command += ["exthdr.name=%d/%f,delete=atime,delete=ctime", "."]
    digests = {hashlib.sha256(run_program(*command, cwd=at)).digest() for at in (tree.mount, tree.oracle)}
    assert len(digests) == 1


def test_find_lists_the_same(tree: Tree) -> None:
    attributes = r"%P %y %m %U %G %T@ %n %D"
    command = ["find", ".", "-type", "d", "-printf", f"{attributes[:-6]}\\0"]
    command += ["-o", "-printf", rf"{attributes[:-3]} %s %l\0"]
    listed = [sorted(run_program(*command, cwd=at).split(b"\0")) for at in (tree.mount, tree.oracle)]
    assert listed[0] == listed[1]
    assert len(listed[0]) == NAME_COUNT + 1


def test_cmp_finds_no_difference(tree: Tree) -> None:
    compare = ["-type", "f", "-exec", "cmp", "{}", f"{tree.oracle}/{{}}", ";"]
    assert run_program("find", ".", *compare, cwd=tree.mount) == b""


def test_stat_shows_devices(tree: Tree) -> None:
    shown = run_program("stat", "-c", "%n %F %t:%T %a", "null", "disk", "large", "fifo", cwd=tree.mount)
    assert shown.decode().splitlines() == [
        "null character special file 1:3 666",
        "disk block special file 8:11 660",
        "large character special file fff:fffff 644",
        "fifo fifo 0:0 620",
    ]


def test_devices_count_for_root(tree: Tree) -> None:
    assert run_program("cat", "null", cwd=tree.mount) == b""


def test_hard_links_are_one_inode(tree: Tree) -> None:
    files = [os.lstat(tree.mount / name) for name in ("dir/chunks", "dir/hard", "harder")]
    links = [os.lstat(tree.mount / name) for name in ("link", "second-link")]
    assert [(status.st_ino, status.st_nlink) for status in files] == [(files[0].st_ino, 3)] * 3
    assert [(status.st_ino, status.st_nlink) for status in links] == [(links[0].st_ino, 2)] * 2


def test_links_of_directories_are_counted(tree: Tree) -> None:
    assert os.stat(tree.mount / "dir").st_nlink == 4
    assert os.stat(tree.mount / "dir/empty").st_nlink == 2


def test_names_are_found_by_their_bytes(tree: Tree) -> None:
    for name in NAMES:
        assert (tree.mount / "names" / name).read_bytes() == os.fsencode(name)
    assert not (tree.mount / "names" / "x\udc80").exists()
    assert os.readlink(os.fsencode(tree.mount) + b"/names/to\x80") == b"dir\x80/file"


def test_times_hold_nanoseconds(tree: Tree) -> None:
    assert os.stat(tree.mount / "names/dir\udc80/file").st_mtime_ns == 1_700_000_000_123_456_789
    assert os.stat(tree.mount / "old").st_mtime_ns == -DAY_NS


def test_inode_numbers_are_those_of_another_mount(tree: Tree, crfs: Crfs) -> None:
    def inodes(root: Path) -> dict[bytes, int]:
        paths = [
            os.path.join(top, *name) for top, *names in os.walk(os.fsencode(root)) for name in _named(names)
        ]
        return {os.path.relpath(path, os.fsencode(root)): os.lstat(path).st_ino for path in paths}

    first, second = inodes(tree.mount), inodes(crfs.mount(tree.source))
    assert first == second
    assert len(first) == NAME_COUNT
    assert 0 not in first.values()


def _named(names: list[list[bytes]]) -> Iterator[tuple[bytes, ...]]:
    yield ()
    for group in names:
        yield from ((name,) for name in group)


def test_file_system_is_full_and_read_only(tree: Tree, crfs: Crfs) -> None:
    """As llfuse tells it; EROFS counts its own blocks."""
    status = os.statvfs(crfs.mount(tree.source, "--engine", "fuse"))
    inodes = NAME_COUNT - sum(isinstance(entry, Hardlink) for entry in LOWER)
    assert (status.f_namemax, status.f_files, status.f_ffree, status.f_bavail) == (255, inodes, 0, 0)
    content = sum(len(entry.payload()) for entry in (*LOWER, *UPPER))
    assert content <= status.f_blocks * status.f_frsize < content + 2 * status.f_frsize
    assert status.f_flag & os.ST_RDONLY


def test_programs_run_from_the_mount(registry: Registry, crfs: Crfs) -> None:
    # through sh: see the trap in docs/registry.md
    program = File("bin/true", Path("/bin/true").read_bytes(), mode=0o755)
    at = crfs.mount(push(registry.address, "program", estargz_layer([*SMALL, program])))
    assert run_program("sh", "-c", f"exec {at}/bin/true") == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's mounts have devices at all")
def test_mount_options_reach_the_kernel(registry: Registry, crfs: Crfs) -> None:
    entries = [*SMALL, Device("null", 1, 3), File("run", b"#!/bin/sh\n", mode=0o755)]
    at = crfs.mount(push(registry.address, "options", estargz_layer(entries)), "-o", "nodev,nosuid,noexec")
    (line,) = crfs.mounts()
    assert {"ro", "nodev", "nosuid", "noexec"} <= line.options
    assert stat.S_ISCHR(os.stat(at / "null").st_mode)
    with pytest.raises(PermissionError):
        os.open(at / "null", os.O_RDONLY)
    with pytest.raises(AssertionError, match="Permission denied"):
        run_program("sh", "-c", f"exec {at}/run")
