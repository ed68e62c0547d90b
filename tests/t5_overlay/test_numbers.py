"""Inode numbers: one for each inode, the same as long as there is the inode."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.overlay.lower import Found, open_directory
from crfs.overlay.numbers import Numbers
from tests.support.overlaytree import Open, OverlayTree


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    root = tmp_path / "lower"
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").write_bytes(b"file")
    (root / "dir/a").write_bytes(b"a")
    os.link(root / "dir/a", root / "dir/sub/b")
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")
    return root


def numbers(tree: OverlayTree, directory: bytes = b"") -> dict[bytes, int]:
    """Of all that is there; each directory tells the same."""
    found: dict[bytes, int] = {}
    for name, listed in tree.listed(directory).items():
        path = directory + b"/" + name if directory else name
        found[path] = tree.number(path)
        assert listed == found[path], path
        with tree.node(path) as node:
            is_dir = node.is_dir
        if is_dir:
            found |= numbers(tree, path)
    return found


def copy_up(tree: OverlayTree) -> None:
    for path in (b"file", b"dir/a", b"dir/sub", b"dir"):
        tree.chmod(path, 0o700)


def test_a_copy_has_the_number_of_what_it_was_made_of(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        before = numbers(tree)
        copy_up(tree)
        tree.rename(b"fifo", b"queue")
        tree.rename(b"link", b"dir/link")
        moved = {**before, b"queue": before[b"fifo"], b"dir/link": before[b"link"]}
        del moved[b"fifo"], moved[b"link"]
        assert numbers(tree) == moved
    # where user.* xattrs are all that there is, nothing else can be marked
    lasting = {path: number for path, number in moved.items() if path not in (b"queue", b"dir/link")}
    with opened([lower], tmp_path) as tree:
        assert numbers(tree).items() >= lasting.items()


def test_a_new_directory_that_holds_a_copy(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        number, pair = tree.number(b"file"), tree.number(b"dir/a")
        tree.mkdir(b"new")
        tree.rename(b"file", b"new/file")
        tree.link(b"dir/sub/b", b"new/pair")
        tree.mkdir(b"new/deeper")
        tree.rename(b"dir/sub", b"new/deeper/sub")
    with opened([lower], tmp_path) as tree:
        found = numbers(tree)
        assert found[b"new/file"] == number
        assert found[b"new/pair"] == found[b"dir/a"] == found[b"new/deeper/sub/b"] == pair


def test_the_marks_are_nobodys_business(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        copy_up(tree)
        assert [name for name in os.listxattr(tmp_path / "upper/file") if "crfs" in name]
        with tree.node(b"file") as node:
            assert tree.overlay.files.listxattr(node) == []
            with pytest.raises(OSError):
                tree.overlay.files.getxattr(node, b"user.overlay.crfs.number")
    # an upper directory that is a lower one has no numbers of its own to tell
    with opened([tmp_path / "upper", lower], tmp_path / "second") as tree:
        assert tree.number(b"file") == (tmp_path / "upper/file").stat().st_ino
        tree.write(b"file", b"again")
        number = tree.number(b"file")
    with opened([tmp_path / "upper", lower], tmp_path / "second") as tree:
        assert tree.number(b"file") == number


def test_numbers_count_only_over_the_same_lower_trees(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        copy_up(tree)
        before = tree.number(b"file")
    other = tmp_path / "other"
    other.mkdir()
    with opened([other], tmp_path) as tree:
        assert tree.number(b"file") != before


def test_trees_with_the_same_numbers(lower: Path, tmp_path: Path, opened: Open) -> None:
    """The same directory twice in a stack: nothing of the one is taken for the other."""
    with opened([lower / "dir", lower], tmp_path) as tree:
        found = numbers(tree)
        assert found.pop(b"sub/b") == found[b"a"]
        assert found.pop(b"dir/sub/b") == found[b"dir/a"]
        assert len(set(found.values())) == len(found)


@pytest.fixture
def nested(lower: Path) -> Iterator[Path]:
    """A lower tree with another file system in it, whose numbers are as small."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for name in ("dir", "dir/sub"):
        subprocess.run(["mount", "-t", "tmpfs", "crfs-tests", lower / name], check=True)
        for file in ("x", "y"):
            (lower / name / file).write_text(name)
            os.link(lower / name / file, lower / name / f"{file}-too")
        (lower / name / "sub").mkdir(exist_ok=True)
    try:
        yield lower
    finally:
        for name in ("dir/sub", "dir"):
            subprocess.run(["umount", "-l", lower / name], check=True)


def test_other_devices_in_a_lower_tree(nested: Path, tmp_path: Path, opened: Open) -> None:
    with opened([nested], tmp_path) as tree:
        found = numbers(tree)
        same = [path for path in found if path.endswith((b"x-too", b"y-too"))]
        assert len(same) == 4
        assert all(found[path] == found[path.removesuffix(b"-too")] for path in same)
        assert len(set(found.values())) == len(found) - len(same)
        tree.write(b"dir/x", b"new")
        assert (tree.read(b"dir/sub/x"), tree.read(b"dir/y")) == (b"dir/sub", b"dir")


def test_numbers_of_64_bits(tmp_path: Path, opened: Open) -> None:
    """As of overlayfs with xino, which marks file systems in the uppermost bits; and such as nobody can fold."""
    lowers = [open_directory(os.fsencode(tmp_path)), open_directory(os.fsencode(tmp_path))]
    table = Numbers(lowers)
    own = (5, 1 << 39, 1 << 63 | 5, 3 << 62 | 5, 1 << 50, (1 << 64) - 1)
    parts = [
        (lower, Found(b"", 0, device << 64 | key)) for lower in lowers for device in (0, 1) for key in own
    ]
    first = [table.lower(part) for part in parts] + [table.upper(key) for key in own]
    assert len(set(first)) == len(first) == 30
    assert [table.lower(part) for part in parts] + [table.upper(key) for key in own] == first
    assert max(first) < 1 << 63
    assert [table.lower_of(table.lower(part)) for part in parts[:4]] == [(lowers[0], key) for key in own[:4]]
