"""What random steps can't compare: where the kernel's overlayfs, without an index or at all, does less than ours."""

import os
from collections.abc import Iterator

import pytest

from tests.support.overlaymounts import FuseOverlay, KernelOverlay, Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.stacks import build, hollow


@pytest.fixture
def side(arena: Arena, overlay: Mounter) -> Iterator[Side]:
    with mounted(overlay, arena, arena.lowers("links"), arena.new_directory()) as found:
        yield found


def test_names_of_one_file_stay_together(side: Side) -> None:
    """A lower file that is written through one name has the new bytes, and one inode, under all of them."""
    with (side.at / "one/b").open("ab") as file:
        file.write(b"more\n")
    os.chown(side.at / "two/pair", 7, 7)
    for _ in range(2):
        names = [side.at / name for name in ("one/a", "one/b", "two/a")]
        assert [name.read_bytes() for name in names] == [b"three names\nmore\n"] * 3
        assert {(name.stat().st_ino, name.stat().st_nlink) for name in names} == {(names[0].stat().st_ino, 3)}
        assert (side.at / "pair").stat().st_uid == 7
        side.remount()


def test_names_of_one_file_stay_together_for_the_kernel(arena: Arena, crfs_overlay: FuseOverlay) -> None:
    """Without an index, since all names are in the upper directory."""
    with mounted(crfs_overlay, arena, arena.lowers("links"), arena.new_directory()) as side:
        (side.at / "two/a").write_bytes(b"new")
        side.unmount()
        side.mount(KernelOverlay(index=False))
        names = [side.at / name for name in ("one/a", "one/b", "two/a")]
        assert [name.read_bytes() for name in names] == [b"new"] * 3
        assert {name.stat().st_nlink for name in names} == {3}


def test_whiteouts_of_nothing_are_not_seen(arena: Arena, crfs_overlay: FuseOverlay) -> None:
    """In a directory that only one layer has. The kernel lists their names, and then can't find them."""
    base = arena.new_directory()
    with mounted(crfs_overlay, arena, build([hollow], base), base) as side:
        assert os.listdir(side.at / "hollow") == []
        (side.at / "hollow/one").write_text("a name like any other")
        assert os.listdir(side.at / "hollow") == ["one"]
        (side.at / "hollow/one").unlink()
        (side.at / "hollow").rmdir()
        assert os.listdir(side.at) == []
