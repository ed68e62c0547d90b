"""Extended attributes as getxattr(2), listxattr(2) and getfattr(1) see them."""

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dockerregistry import need_programs, need_root
from tests.support.layers import Dir, Entry, File, Symlink
from tests.support.mounting import Crfs, crfs_in, run_program
from tests.t6_mount.images import SMALL, estargz_layer, push, tar_layer

# VFS_CAP_REVISION_2 with cap_net_raw (capability.h)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
XATTRS = {
    "user.bytes": b"\0\xff\n=",
    "user.empty": b"",
    "user.large": bytes(range(256)) * 200,
    "user.nämé": b"utf-8",
    "trusted.t": b"only root sees it",
    "security.capability": CAPABILITY,
}
ENTRIES: list[Entry] = [
    Dir("./", xattrs={"user.root": b"r"}),
    Dir("dir", xattrs={"user.dir": b"d"}),
    File("file", b"x", xattrs=XATTRS),
    File("none", b"x"),
    Symlink("link", "file", xattrs={"trusted.link": b"l"}),
]

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", params=[estargz_layer, tar_layer], ids=["estargz", "tar"])
def root(
    request: pytest.FixtureRequest, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    need_root()
    with crfs_in(tmp_path_factory.mktemp("xattrs") / "crfs") as crfs:
        # overlayfs counts names that it does not show
        yield crfs.mount(push(registry.address, "xattrs", request.param(ENTRIES)), "--engine", "fuse")


def probe(path: Path, name: str, size: int) -> int:
    """The size that getxattr(2) answers with a buffer of `size` bytes, or minus its errno."""
    buffer = ctypes.create_string_buffer(size)
    answer = _libc.getxattr(os.fsencode(path), os.fsencode(name), buffer if size else None, size)
    return int(answer) if answer >= 0 else -ctypes.get_errno()


def test_values(root: Path) -> None:
    assert {name: os.getxattr(root / "file", name) for name in os.listxattr(root / "file")} == XATTRS
    assert os.listxattr(root) == ["user.root"]
    assert os.getxattr(root / "dir", "user.dir") == b"d"
    assert os.listxattr(root / "link", follow_symlinks=False) == ["trusted.link"]
    assert os.listxattr(root / "none") == []


def test_sizes_can_be_asked_for(root: Path) -> None:
    file = root / "file"
    assert [probe(file, "user.bytes", size) for size in (0, 3, 4, 100)] == [4, -errno.ERANGE, 4, 4]
    assert [probe(file, "user.empty", size) for size in (0, 1)] == [0, 0]
    assert [probe(file, "user.large", size) for size in (0, 1000, 51200)] == [51200, -errno.ERANGE, 51200]
    size = sum(len(name.encode()) + 1 for name in XATTRS)
    path, buffer = os.fsencode(file), ctypes.create_string_buffer(size)
    assert _libc.listxattr(path, None, 0) == size
    assert _libc.listxattr(path, buffer, size) == size
    assert _libc.listxattr(path, buffer, size - 1) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_should_fail_attribute_that_is_not_there(root: Path) -> None:
    for name in ("file", "none", "dir"):
        assert probe(root / name, "user.missing", 100) == -errno.ENODATA


def test_getfattr_dumps_them(root: Path) -> None:
    need_programs(["getfattr"])
    dumped = run_program("getfattr", "-d", "-m", "-", "-e", "hex", "file", cwd=root).decode()
    found = dict(re.findall(r"^([^#\n]+?)(?:=(?:0x([0-9a-f]*)|\"\"))?$", dumped, re.MULTILINE))
    unescaped = {
        name.replace("\\303\\244", "ä").replace("\\303\\251", "é"): value for name, value in found.items()
    }
    assert unescaped == {name: value.hex() for name, value in XATTRS.items()}
    assert run_program("getfattr", "-R", "-d", "-m", "-", "none", cwd=root) == b""


def test_trusted_ones_are_listed_to_root_alone(root: Path) -> None:
    need_programs(["getfattr"])
    listed = run_program("getfattr", "-m", "-", "file", cwd=root, user=65534).decode()
    assert "user.bytes\n" in listed
    assert "trusted" not in listed


def test_image_without_any(registry: Registry, crfs: Crfs) -> None:
    at = crfs.mount(push(registry.address, "no-xattrs", estargz_layer(SMALL)))
    for _ in range(2):
        assert os.listxattr(at / "dir/file") == []
        # after the first ENOSYS the kernel says by itself that there are none
        assert probe(at / "dir/file", "user.missing", 100) in (-errno.ENODATA, -errno.EOPNOTSUPP)
    assert run_program("ls", "-l", at / "dir").count(b"file") == 1
