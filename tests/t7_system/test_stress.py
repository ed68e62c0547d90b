"""stress-ng's file system stressors, on a mount that the kernel's overlayfs writes to: none fails or is skipped."""

import subprocess
from pathlib import Path

import pytest

from tests.support.dockerregistry import need_programs, need_root
from tests.support.layers import Dir, File
from tests.support.mounting import crfs_in, need_fuse
from tests.t6_mount.images import estargz_layer, write_layout

# with those that libfuse 2 can't pass on
STRESSORS = ("chattr", "copy-file", "dir", "fallocate", "fpunch", "link", "rename", "xattr")
_OPERATIONS = "100"


@pytest.mark.parametrize("engine", ["overlay", "erofs"])
def test_none_fails(tmp_path: Path, engine: str) -> None:
    need_root()
    need_fuse()
    need_programs(["stress-ng"])
    image = write_layout(
        tmp_path / "layout", estargz_layer([Dir("./"), Dir("dir"), File("dir/file", b"f" * 5000)])
    )
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    words = [word for name in STRESSORS for word in (f"--{name}", "1", f"--{name}-ops", _OPERATIONS)]
    with crfs_in(tmp_path / "crfs") as crfs:
        root = crfs.mount(
            image, "--engine", engine, "--upper", tmp_path / "upper", "--work", tmp_path / "work"
        )
        done = subprocess.run(
            ["stress-ng", *words, "--timeout", "5", "--temp-path", root / "dir"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "fail" not in said, said
        assert "skipp" not in said, said
        assert (root / "dir/file").read_bytes() == b"f" * 5000
