"""An upper directory that was written under one overlay means the same under any other: the kernel's with metacopy
and redirects, and ours. Everything below is compared entry by entry, and then changed.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from crfs.mount.engines.needs import lacks_kernel
from tests.support.compare import compare_trees
from tests.support.overlaymounts import FuseOverlay, KernelOverlay, Layers, Mounter
from tests.t6_mount.overlay.arena import Arena

Over = Callable[[Mounter, Sequence[Path]], contextlib.AbstractContextManager[Path]]
CAPS = bytes.fromhex("0100000200200000000000000000000000000000")
KERNEL = KernelOverlay(metacopy=True)


@pytest.fixture
def upper(arena: Arena) -> Path:
    """A directory with an upper one, a work directory, and one to mount on."""
    base = arena.new_directory()
    for name in ("upper", "work", "merged"):
        (base / name).mkdir()
    return base


@pytest.fixture
def over(upper: Path) -> Over:
    """Mounts lower directories, bottom first, with that upper directory."""

    @contextlib.contextmanager
    def mounted(mounter: Mounter, lowers: Sequence[Path]) -> Iterator[Path]:
        layers = Layers(tuple(lowers), upper / "upper", upper / "work")
        mount = mounter.mount(layers, upper / "merged")
        try:
            yield mount.at
            mount.unmount()
        finally:
            mount.kill()

    return mounted


def change(root: Path) -> None:
    """What leaves metacopies, redirects of files and directories, opaque directories and whiteouts."""
    (root / "a").chmod(0o600)
    (root / "large").chmod(0o640)
    os.setxattr(root / "large", "user.new", b"n")
    os.chown(root / "dir/file", 1000, 1000)
    (root / "sparse").rename(root / "dir/sparse too")
    os.chmod(root / "dir/sparse too", 0o600)
    os.link(root / "dir/file", root / "dir/linked")
    os.utime(root / "x/caps", ns=(5, 1_500_000_000_000_000_000))
    os.setxattr(root / "x/caps", "security.capability", CAPS)
    (root / "x").rename(root / "dir/y")
    (root / "dir/y/other").chmod(0o606)
    (root / "dir/y/user").rename(root / "user")
    (root / "user").chmod(0o444)
    (root / "dir/sub").rename(root / "sub")
    (root / "sub/c").chmod(0o777)
    (root / "empty").rmdir()
    (root / "empty").mkdir()
    (root / "private").unlink()


def write(root: Path) -> None:
    """Change bytes of what has none yet in the upper directory, in each way."""
    with (root / "large").open("r+b") as file:
        file.seek(100_000)
        file.write(b"in the middle")
    os.truncate(root / "dir/sparse too", (1 << 20) + 3)
    (root / "a").write_bytes(b"all new")
    with (root / "dir/linked").open("ab") as file:
        file.write(b"more")
    with (root / "sub/c").open("rb") as old:
        (root / "sub/c").write_bytes(b"changed")
        assert old.read() == b"changed"
    (root / "user").rename(root / "dir/renamed")
    os.link(root / "dir/y/other", root / "other")
    (root / "dir/y/caps").chmod(0o700)


def kept(root: Path, copy: Path) -> Path:
    """A copy of what a mount shows."""
    subprocess.run(["cp", "-a", root, copy], check=True)
    return copy


def different(root: Path, copy: Path) -> list[str]:
    """How a mount differs from what was kept; nobody counts what is in a directory."""
    return [line for line in compare_trees(root, copy, untimed=[b"."]) if " nlink: " not in line]


def test_the_kernels_is_the_same_here(
    arena: Arena, upper: Path, over: Over, crfs_overlay: FuseOverlay, tmp_path: Path
) -> None:
    """It is read without being changed; what is written then, the kernel reads."""
    lowers = arena.lowers("rich")
    with over(KERNEL, lowers) as root:
        change(root)
        copy = kept(root, tmp_path / "copy")
    assert os.getxattr(upper / "upper/large", "trusted.overlay.metacopy") == b""
    with over(crfs_overlay, lowers) as root:
        assert different(root, copy) == []
        assert os.stat(root / "large").st_blocks * 512 >= 320_000
        assert os.getxattr(upper / "upper/large", "trusted.overlay.metacopy") == b""
        write(root)
        changed = kept(root, tmp_path / "changed")
    with over(KERNEL, lowers) as root:
        assert different(root, changed) == []
        copy_of_lowers = kept(root, tmp_path / "again")
        assert (copy_of_lowers / "large").read_bytes()[100_000:100_013] == b"in the middle"


def test_ours_is_the_same_there(arena: Arena, over: Over, crfs_overlay: FuseOverlay, tmp_path: Path) -> None:
    lowers = arena.lowers("rich")
    with over(crfs_overlay, lowers) as root:
        change(root)
        copy = kept(root, tmp_path / "copy")
    with over(KERNEL, lowers) as root:
        assert different(root, copy) == []
        write(root)
        changed = kept(root, tmp_path / "changed")
    with over(crfs_overlay, lowers) as root:
        assert different(root, changed) == []


def test_one_may_be_a_lower_directory(
    arena: Arena, upper: Path, over: Over, crfs_overlay: FuseOverlay, tmp_path: Path
) -> None:
    """The bytes are two directories further down, and are copied up from there."""
    lowers = arena.lowers("rich")
    with over(KERNEL, lowers) as root:
        change(root)
        copy = kept(root, tmp_path / "copy")
    middle = (upper / "upper").rename(upper / "middle")
    for name in ("upper", "work"):
        if not (upper / name).exists():
            (upper / name).mkdir()
    with over(crfs_overlay, [*lowers, middle]) as root:
        assert different(root, copy) == []
        write(root)
        changed = kept(root, tmp_path / "changed")
    with over(KERNEL, [*lowers, middle]) as root:
        assert different(root, changed) == []


def test_whiteouts_that_are_files(arena: Arena, upper: Path, over: Over, crfs_overlay: FuseOverlay) -> None:
    """As an overlay has them that is a layer of another one: `xwhiteouts`."""
    lowers = arena.lowers("small")
    middle = upper / "middle"
    (middle / "dir").mkdir(parents=True)
    for directory in (middle, middle / "dir"):
        os.setxattr(directory, "trusted.overlay.opaque", b"x")
    for name in ("file", "dir/b"):
        (middle / name).touch()
        os.setxattr(middle / name, "trusted.overlay.whiteout", b"")
    (middle / "dir/new").touch()
    seen = []
    # since 6.8 the kernel knows them in this form
    mounters: list[Mounter] = [crfs_overlay] if lacks_kernel(6, 8) else [crfs_overlay, KERNEL]
    for mounter in mounters:
        with over(mounter, [*lowers, middle]) as root:
            assert not (root / "file").exists()
            seen.append((sorted(os.listdir(root)), sorted(os.listdir(root / "dir"))))
    assert all(each == seen[0] for each in seen)
    assert "b" not in seen[0][1]
    assert "new" in seen[0][1]
