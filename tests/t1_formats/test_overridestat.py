"""Owner and mode in an xattr, as fuse-overlayfs and containers/storage write them."""

import contextlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import FormatError
from crfs.formats.overridestat import (
    XATTR,
    XATTRS,
    OverrideStat,
    XattrPermissions,
    format_override,
    parse_override,
)

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
