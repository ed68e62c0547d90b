"""Lower files that a listing has told of: what is done to them first is answered where it is received."""

import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.overlaymounts import FuseOverlay, Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.stacks import Layer, build

NAMES = tuple(f"file-{number}" for number in range(200))
LARGE = 100_000


def _fill(layer: Layer) -> None:
    layer.directory(b"dir")
    for name in NAMES:
        layer.file(b"dir/" + name.encode(), name.encode())
    layer.file(b"dir/large", b"x" * LARGE)


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    return build([_fill], arena.new_directory())


@pytest.fixture
def side(arena: Arena, overlay: Mounter, lowers: tuple[Path, ...]) -> Iterator[Side]:
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        yield side


@pytest.fixture
def listed(side: Side) -> Path:
    """The directory, in the upper one, and its files, which have been told of."""
    directory = side.at / "dir"
    directory.chmod(0o750)
    with os.scandir(directory) as entries:
        assert all(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return directory


def test_what_changes_keeps_all_else(listed: Path) -> None:
    for name in (*NAMES, "large"):
        before = (listed / name).stat()
        (listed / name).chmod(0o604)
        after = (listed / name).stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        )
        assert stat.S_IMODE(after.st_mode) == 0o604
    assert {name: (listed / name).read_text() for name in NAMES} == {name: name for name in NAMES}
    assert (listed / "large").read_bytes() == b"x" * LARGE


def test_what_is_appended_to_is_read_and_was_not_new(listed: Path) -> None:
    for name in NAMES:
        with open(listed / name, "a") as file:
            file.write(" and more")
        assert (listed / name).read_text() == name + " and more"
        os.rename(listed / name, listed / f"{name}-moved")
    assert sorted(os.listdir(listed)) == sorted([*(f"{name}-moved" for name in NAMES), "large"])


def test_what_is_removed_is_there_for_who_holds_it(listed: Path) -> None:
    for name in NAMES[:20]:
        held = os.open(listed / name, os.O_PATH)
        number = os.fstat(held).st_ino
        (listed / name).unlink()
        assert not (listed / name).exists()
        assert os.fstat(held).st_ino == number
        with open(f"/proc/self/fd/{held}") as file:
            assert file.read() == name
        (listed / name).touch(exist_ok=False)
        assert (listed / name).read_text() == ""
        os.close(held)


def test_all_can_be_removed_and_the_directory_made_anew(listed: Path) -> None:
    (listed / NAMES[0]).chmod(0o600)
    for name in os.listdir(listed):
        (listed / name).unlink()
    listed.rmdir()
    listed.mkdir()
    assert os.listdir(listed) == []


def _fill_mixed(layer: Layer) -> None:
    layer.directory(b"mixed")
    for name in NAMES:
        layer.directory(b"mixed/dir-" + name.encode())
        layer.file(b"mixed/dir-" + name.encode() + b"/below", b"below")
        layer.file(b"mixed/" + name.encode(), name.encode())
        layer.file(b"mixed/empty-" + name.encode(), b"")


def _tree(at: Path) -> dict[str, tuple[int, int, int, int]]:
    found = {}
    for above, directories, files in os.walk(at):
        for name in directories + files:
            info = os.lstat(Path(above, name))
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            found[str(Path(above, name).relative_to(at))] = info.st_ino, info.st_mode, size, info.st_mtime_ns
    return found


def test_trees_are_the_same_listed_changed_and_listed_again(arena: Arena, overlay: Mounter) -> None:
    lowers = build([_fill_mixed], arena.new_directory())
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        top = side.at / "mixed"
        before = _tree(top)
        assert len(before) == 4 * len(NAMES)
        subprocess.run(["chmod", "-R", "u+rwX,go=", top], check=True)
        after = _tree(top)
        assert {name: (ino, size, mtime) for name, (ino, _, size, mtime) in after.items()} == {
            name: (ino, size, mtime) for name, (ino, _, size, mtime) in before.items()
        }
        assert all(not mode & 0o077 for _, mode, _, _ in after.values())
        subprocess.run(["rm", "-rf", top], check=True)
        assert not top.exists()
        top.mkdir()
        assert os.listdir(top) == []


def test_directories_are_what_they_are_called_however_often_that_changes(
    arena: Arena, overlay: Mounter
) -> None:
    lowers = build([_fill_mixed], arena.new_directory())
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        top = side.at / "mixed"
        first, second, moved = (top / f"dir-{name}" for name in (*NAMES[:2], "moved"))
        for mode in (0o700, 0o750):
            # which makes the kernel look its name up again
            first.chmod(mode)
            assert stat.S_IMODE(first.stat().st_mode) == mode
        number = first.stat().st_ino
        os.utime(first, ns=(1, 2))
        os.chown(first, 7, 8)
        info = first.stat()
        assert (info.st_atime_ns, info.st_mtime_ns, info.st_uid, info.st_gid) == (1, 2, 7, 8)
        first.rename(moved)
        moved.chmod(0o755)
        assert moved.stat().st_ino == number
        assert not first.exists()
        first.mkdir()
        first.chmod(0o711)
        assert first.stat().st_ino != number
        assert os.listdir(first) == []
        (second / "below").unlink()
        second.rmdir()
        moved.rename(second)
        second.chmod(0o700)
        assert second.stat().st_ino == number
        assert (second / "below").read_text() == "below"
        second.chmod(0o2750)
        (second / "new").touch()
        assert ((second / "new").stat().st_gid, stat.S_IMODE(second.stat().st_mode)) == (8, 0o2750)


@pytest.fixture
def unprivileged(tmp_path: Path, crfs_overlay: FuseOverlay) -> FuseOverlay:
    """crfs-overlayfs with no more rights to files than their owner has."""
    script = tmp_path / "crfs-overlayfs"
    dropped = "setpriv --bounding-set -dac_override,-dac_read_search"
    script.write_text(f'#!/bin/sh\nexec {dropped} {crfs_overlay.program} "$@"\n')
    script.chmod(0o755)
    return replace(crfs_overlay, program=script, name="unprivileged")


def test_directories_that_may_not_be_searched_can_be_changed(
    arena: Arena, unprivileged: FuseOverlay, lowers: tuple[Path, ...]
) -> None:
    with mounted(unprivileged, arena, lowers, arena.new_directory()) as side:
        new, copied = side.at / "new", side.at / "dir"
        new.mkdir()
        for directory in new, copied:
            directory.chmod(0)
            os.utime(directory, ns=(1, 2))
            os.chown(directory, -1, 8)
            directory.chmod(0o750)
            info = directory.stat()
            assert (info.st_mtime_ns, info.st_gid, stat.S_IMODE(info.st_mode)) == (2, 8, 0o750)
            assert len(os.listdir(directory)) == (0 if directory == new else len(NAMES) + 1)
