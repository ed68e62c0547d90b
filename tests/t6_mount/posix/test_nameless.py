"""What has lost its name stays what it is for who has it open, be it with O_PATH, and can still be changed."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.overlaymounts import FuseOverlay
from tests.t6_mount.overlay.arena import Arena, mounted

_KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"bytes"),
    "fifo": os.mkfifo,
    "symlink": lambda path: path.symlink_to("target"),
    "directory": os.mkdir,
}


@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("kind", _KINDS)
def test_nameless(arena: Arena, crfs_overlay: FuseOverlay, kind: str, where: str) -> None:
    base = arena.new_directory()
    (base / "lower").mkdir()
    if where == "lower":
        _KINDS[kind](base / "lower/it")
    with mounted(crfs_overlay, arena, (base / "lower",), base) as side:
        path = side.at / "it"
        if where == "upper":
            _KINDS[kind](path)
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            (os.rmdir if kind == "directory" else os.unlink)(path)
            os.chown(f"/proc/self/fd/{fd}", 7, 8)
            status = os.fstat(fd)
            assert (status.st_uid, status.st_gid, status.st_nlink) == (7, 8, 0)
            if stat.S_ISLNK(status.st_mode):
                assert os.readlink("", dir_fd=fd) == "target"
            if stat.S_ISREG(status.st_mode):
                assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"bytes"
        finally:
            os.close(fd)
        assert os.listdir(side.at) == []
