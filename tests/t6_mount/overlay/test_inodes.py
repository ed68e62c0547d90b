"""Inode numbers of what is copied up, moved and open: the same as before, whoever else mounts the upper directory."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.erofsimages import need_kernel
from tests.support.fsops import Inodes, Step
from tests.support.mounting import Crfs
from tests.support.overlaymounts import FuseOverlay, KernelOverlay, crfs_engine, crfs_userxattr
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.images import ImageEngine

Numbers = dict[bytes, int]


@pytest.fixture(params=["trusted", "user"])
def side(
    request: pytest.FixtureRequest, arena: Arena, crfs: Crfs, crfs_overlay: FuseOverlay
) -> Iterator[Side]:
    """With either kind of marks."""
    mounter = crfs_overlay if request.param == "trusted" else crfs_userxattr(crfs.environment)
    with mounted(mounter, arena, arena.lowers("links"), arena.new_directory()) as found:
        yield found


def numbers(side: Side) -> Numbers:
    """Of every path; there is nothing wrong with any."""
    step: Step = Inodes()
    (found,) = side.call(step)
    assert isinstance(found, tuple), found
    assert found[1] == []
    return dict(found[0])


def has_user_marks(side: Side) -> bool:
    """Which kind it is."""
    return "userxattr" in getattr(side.mounter, "options", ())


def lasting(side: Side, found: Numbers) -> Numbers:
    """Those that a remount keeps: `user.*` marks can only be on files and directories."""
    if not has_user_marks(side):
        return found
    kinds = {path: (side.at / os.fsdecode(path)) for path in found}
    return {path: found[path] for path, at in kinds.items() if not at.is_symlink() and not at.is_fifo()}


def change(root: Path) -> None:
    """Copy everything up, in some way or other."""
    os.setxattr(root / "file", "user.a", b"set")
    with (root / "two/a").open("ab") as file:
        file.write(b"more")
    for path in root.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)


def moved(root: Path, before: Numbers) -> Numbers:
    """Move a few things, and say what numbers there should be."""
    moves = {"one": "dir/uno", "dir/sub": "sub", "two/pair": "dir/uno/pair", "to-file": "two/to-file"}
    after = dict(before)
    for old, new in moves.items():
        os.rename(root / old, root / new)
        source, target = os.fsencode(old), os.fsencode(new)
        inside = [path for path in after if path == source or path.startswith(source + b"/")]
        after |= {target + path[len(source) :]: after.pop(path) for path in inside}
    return after


def test_copied_up_and_moved(side: Side) -> None:
    before = numbers(side)
    change(side.at)
    assert numbers(side) == before
    after = moved(side.at, before)
    assert numbers(side) == after
    kept = lasting(side, after)
    for _ in range(2):
        side.remount()
        assert numbers(side).items() >= kept.items()


def test_moved_first(side: Side) -> None:
    after = moved(side.at, numbers(side))
    assert numbers(side) == after
    change(side.at)
    assert numbers(side) == after
    kept = lasting(side, after)
    side.remount()
    assert numbers(side).items() >= kept.items()


def test_open_files_and_directories(side: Side) -> None:
    """fstat says the same, whatever happens to names and content."""
    before = numbers(side)
    paths = ["one/a", "dir/file", "dir/sub", "two/pair"]
    handles = [os.open(side.at / path, os.O_RDONLY) for path in paths]
    try:
        wanted = [before[os.fsencode(path)] for path in paths]
        change(side.at)
        assert [os.fstat(handle).st_ino for handle in handles] == wanted
        moved(side.at, before)
        shutil.rmtree(side.at / "dir")
        (side.at / "pair").unlink()
        assert [os.fstat(handle).st_ino for handle in handles] == wanted
    finally:
        for handle in handles:
            os.close(handle)


def test_the_upper_directory_is_moved(side: Side, arena: Arena) -> None:
    """To other inodes of its own, as a backup is."""
    change(side.at)
    (side.at / "new").write_text("new")
    after = moved(side.at, numbers(side))
    kept = lasting(side, after)
    side.unmount()
    with mounted(side.mounter, arena, side.layers.lowers, arena.new_directory()) as other:
        other.unmount()
        subprocess.run(["cp", "-aT", side.upper, other.upper], check=True)
        other.mount()
        del kept[b"new"]
        assert numbers(other).items() >= kept.items()


def test_the_kernel_mounts_it_in_between(side: Side) -> None:
    """It neither shows the marks nor loses them."""
    change(side.at)
    kept = lasting(side, numbers(side))
    side.unmount()
    side.mount(KernelOverlay(userxattr=has_user_marks(side)))
    assert [name for name in os.listxattr(side.at / "one/a") if "overlay" in name] == []
    (side.at / "one/a").write_bytes(b"by the kernel")
    os.rename(side.at / "two/a", side.at / "one/c")
    kept[b"one/c"] = kept.pop(b"two/a")
    side.unmount()
    side.mount()
    assert numbers(side).items() >= kept.items()
    assert (side.at / "one/c").read_bytes() == b"by the kernel"


def test_the_kernel_lists_new_directories_in_between(side: Side) -> None:
    """It takes its own mark from those where it sees nothing that it has copied up, and has none on what it links."""
    for name in ("new", "other"):
        (side.at / name).mkdir()
    os.rename(side.at / "one/a", side.at / "new/a")
    os.link(side.at / "two/a", side.at / "new/two")
    os.rename(side.at / "dir/file", side.at / "new/file")
    kept = lasting(side, numbers(side))
    side.unmount()
    side.mount(KernelOverlay(userxattr=has_user_marks(side)))
    assert sorted(os.listdir(side.at / "new")) == ["a", "file", "two"]
    os.link(side.at / "new/two", side.at / "other/two")
    side.unmount()
    side.mount()
    # first by the name of which nobody says anything
    assert (side.at / "other/two").stat().st_ino == kept[b"new/two"]
    side.remount()
    assert numbers(side).items() >= kept.items()


def change_apart(side: Side) -> set[bytes]:
    """Copy everything up, of one file also the bytes; what the engine overlay knows by its path alone."""
    by_path = set()
    for name in numbers(side):
        path = side.at / os.fsdecode(name)
        os.utime(path, (1, 1), follow_symlinks=False)
        if not path.is_symlink():
            by_path.add(name)
    with (side.at / "file").open("ab") as file:
        file.write(b"more")
    return by_path - {b"file"}


def test_by_the_engine_overlay(arena: Arena, crfs: Crfs) -> None:
    """FUSE's files can't be found again by a handle, so that others get new numbers."""
    mounter = crfs_engine("overlay", crfs.environment)
    with mounted(mounter, arena, arena.lowers("small"), arena.new_directory()) as side:
        before = numbers(side)
        by_path = change_apart(side)
        assert numbers(side) == before
        side.remount()
        assert numbers(side).items() >= {path: before[path] for path in by_path}.items()


def test_by_the_engine_erofs(arena: Arena, crfs: Crfs, tmp_path: Path) -> None:
    need_kernel()
    mounter = ImageEngine("crfs-erofs", crfs.environment, images=tmp_path)
    with mounted(mounter, arena, arena.lowers("small"), arena.new_directory()) as side:
        before = numbers(side)
        change_apart(side)
        assert numbers(side) == before
        side.remount()
        assert numbers(side) == before
