"""Owner and mode in an xattr: what fuse-overlayfs and containers/storage write, and what they read of ours."""

import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import FormatError
from crfs.integrations.overridestat import (
    XATTR,
    XATTRS,
    OverrideStat,
    XattrPermissions,
    format_override,
    parse_override,
)
from tests.t6_integrations.fuseoverlayfs import fuse_overlayfs

KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR)
_ID = st.integers(0, 2**32 - 1)
_MODE = st.integers(0, 0o7777)


@given(_ID, _ID, _MODE, st.sampled_from((0, *KINDS)), st.integers(0, 4095), st.integers(0, 2**20 - 1))
def test_comes_back(uid: int, gid: int, mode: int, kind: int, major: int, minor: int) -> None:
    rdev = os.makedev(major, minor) if kind in (stat.S_IFBLK, stat.S_IFCHR) else 0
    info = OverrideStat(uid, gid, kind | mode, rdev)
    assert parse_override(format_override(info)) == info


@given(st.binary(max_size=40) | st.text("0123456789:-filedrch").map(str.encode))
def test_any_value_is_understood_or_refused(value: bytes) -> None:
    with contextlib.suppress(FormatError):
        info = parse_override(value)
        assert parse_override(format_override(info)) == info


@pytest.mark.parametrize(
    ("value", "info"),
    [
        (b"0:0:555", OverrideStat(0, 0, 0o555)),
        (b"5:6:100755", OverrideStat(5, 6, 0o100755)),
        (b"0:0:0100644", OverrideStat(0, 0, 0o100644)),
        (b"0:0:41777", OverrideStat(0, 0, 0o41777)),
        (b"1:2:4711:file", OverrideStat(1, 2, 0o104711)),
        (b"1:2:0755:dir", OverrideStat(1, 2, 0o40755)),
        (b"1:2:0777:symlink", OverrideStat(1, 2, 0o120777)),
        (b"1:2:0644:pipe", OverrideStat(1, 2, 0o10644)),
        (b"1:2:0644:socket", OverrideStat(1, 2, 0o140644)),
        (b"0:6:0660:block-8-1", OverrideStat(0, 6, 0o60660, os.makedev(8, 1))),
        (b"0:5:0666:char-1-3", OverrideStat(0, 5, 0o20666, os.makedev(1, 3))),
        (b"0:5:0666:char-1-3-more:and:more", OverrideStat(0, 5, 0o20666, os.makedev(1, 3))),
        (b"0:0:100755:dir", OverrideStat(0, 0, 0o40755)),
        (b"-2:-1:644", OverrideStat(2**32 - 2, 2**32 - 1, 0o644)),
    ],
)
def test_value(value: bytes, info: OverrideStat) -> None:
    assert parse_override(value) == info


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"0:0",
        b":0:644",
        b"0::644",
        b"0:0:",
        b"x:0:644",
        b"0:-x:644",
        b"0: 1:644",
        b"+1:0:644",
        b"1_0:0:644",
        b"4294967296:0:644",
        b"0:-2147483649:644",
        b"0:0:8",
        b"0:0:0o644",
        b"0:0:-1",
        b"0:0:30644",
        b"0:0:1000644",
        b"0:0:644:",
        b"0:0:644:door",
        b"0:0:644:char",
        b"0:0:644:char-1",
        b"0:0:644:char-1-x",
        b"0:0:644:block--1-2",
    ],
)
def test_should_fail_malformed(value: bytes) -> None:
    with pytest.raises(FormatError):
        parse_override(value)


def test_what_is_written_is_read() -> None:
    assert set(XATTR.values()) < set(XATTRS)
    assert set(XATTR) == set(XattrPermissions) - {XattrPermissions.OFF}


@pytest.mark.parametrize(
    ("permissions", "name"),
    [
        (XattrPermissions.PRIVILEGED, b"security.fuseoverlayfs.override_stat"),
        (XattrPermissions.USER, b"user.fuseoverlayfs.override_stat"),
    ],
)
def test_written_by_fuse_overlayfs(tmp_path: Path, permissions: XattrPermissions, name: bytes) -> None:
    for directory in ("low", "up", "work"):
        (tmp_path / directory).mkdir()
    options = f"lowerdir=low,upperdir=up,workdir=work,xattr_permissions={permissions}"
    with fuse_overlayfs(tmp_path, options) as at:
        (at / "dir").mkdir()
        (at / "dir").chmod(0o1777)
        (at / "file").touch()
        (at / "file").chmod(0o4711)
        os.chown(at / "file", 5, 6)
        shown = {path.name: path.lstat() for path in (at, *at.iterdir())}
    assert name in XATTRS
    for path in (tmp_path / "up/dir", tmp_path / "up/file"):
        info, seen = parse_override(os.getxattr(path, name)), shown[path.name]
        assert (info.uid, info.gid, info.mode) == (seen.st_uid, seen.st_gid, seen.st_mode)


def test_read_by_fuse_overlayfs(tmp_path: Path) -> None:
    (tmp_path / "low/dir").mkdir(parents=True)
    (tmp_path / "low/file").touch()
    wanted = {
        "low": OverrideStat(0, 0, stat.S_IFDIR | 0o755),
        "low/dir": OverrideStat(7, 8, stat.S_IFDIR | 0o2770),
        "low/file": OverrideStat(9, 10, stat.S_IFREG | 0o4711),
    }
    for name, info in wanted.items():
        os.setxattr(tmp_path / name, XATTR[XattrPermissions.USER], format_override(info))
    with fuse_overlayfs(tmp_path, "lowerdir=low") as at:
        for name in ("dir", "file"):
            seen, info = (at / name).stat(), wanted[f"low/{name}"]
            assert (seen.st_uid, seen.st_gid, seen.st_mode) == (info.uid, info.gid, info.mode)
