"""Names of one lower file are one file: whatever is done to it, wherever they are, also after a remount."""

import os
from pathlib import Path

import pytest

from tests.support.overlaytree import Open, OverlayTree
from tests.support.overlaytree import opened as opened_by_all


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    """One file of three names, in directories one of which is deeper."""
    root = tmp_path / "lower"
    (root / "one/deep").mkdir(parents=True)
    (root / "two").mkdir()
    (root / "one/a").write_bytes(b"old")
    os.link(root / "one/a", root / "one/deep/b")
    os.link(root / "one/a", root / "two/c")
    (root / "two/single").write_bytes(b"one name")
    return root


def counts(tree: OverlayTree, *paths: bytes) -> set[tuple[int, int]]:
    """(inode number, link count) of some names."""
    return {(tree.number(path), tree.stat(path).nlink) for path in paths}


def test_a_write_shows_through_names_in_moved_directories(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        tree.rename(b"one/deep", b"two/deeper")
        tree.mkdir(b"new")
        tree.rename(b"one", b"new/uno")
        tree.write(b"two/c", b"new")
    paths = b"new/uno/a", b"two/deeper/b", b"two/c"
    for _ in range(2):
        with opened([lower], tmp_path) as tree:
            assert [tree.read(path) for path in paths] == [b"new"] * 3
            assert [count for _, count in counts(tree, *paths)] == [3]


def test_directories_moved_before_a_remount(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        tree.rename(b"one", b"uno")
        tree.rename(b"uno/deep", b"deep")
    with opened([lower], tmp_path) as tree:
        tree.write(b"deep/b", b"new")
        assert tree.read(b"two/c") == tree.read(b"uno/a") == b"new"


def test_directories_moved_in_a_lower_tree(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path / "first") as tree:
        tree.rename(b"one/deep", b"one/deeper")
        tree.rename(b"one", b"two/uno")
    with opened([tmp_path / "first/upper", lower], tmp_path) as tree:
        tree.write(b"two/c", b"new")
    with opened([tmp_path / "first/upper", lower], tmp_path) as tree:
        assert tree.read(b"two/uno/deeper/b") == tree.read(b"two/uno/a") == b"new"
        assert [count for _, count in counts(tree, b"two/c", b"two/uno/a", b"two/uno/deeper/b")] == [3]


def test_names_that_went_are_counted(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree:
        tree.unlink(b"one/deep/b")
        assert counts(tree, b"one/a", b"two/c") == {(tree.number(b"one/a"), 2)}
        tree.rename(b"one", b"uno")
    for _ in range(2):
        with opened([lower], tmp_path) as tree:
            assert counts(tree, b"uno/a", b"two/c") == {(tree.number(b"two/c"), 2)}
    with opened([lower], tmp_path) as tree:
        tree.unlink(b"uno/a")
        assert tree.stat(b"two/c").nlink == 1
        tree.chmod(b"two/c", 0o600)
        assert tree.stat(b"two/c").nlink == 1
    with opened([lower], tmp_path) as tree:
        assert tree.stat(b"two/c").nlink == 1


def test_an_open_file_counts_names_that_nobody_has_looked_up(
    lower: Path, tmp_path: Path, opened: Open
) -> None:
    with opened([lower], tmp_path) as tree, tree.open(b"one/a") as node:
        tree.unlink(b"one/a")
        assert tree.overlay.files.attributes(node).nlink == 2
        tree.overlay.files.setxattr(node, b"user.a", b"set", 0, lambda: False)
        with tree.node(b"two/c") as other:
            assert other is node
            assert tree.overlay.files.getxattr(other, b"user.a") == b"set"
        tree.unlink(b"two/c")
        tree.unlink(b"one/deep/b")
        assert tree.overlay.files.attributes(node).nlink == 0


def test_a_file_without_names_is_copied_up_for_its_handles(lower: Path, tmp_path: Path, opened: Open) -> None:
    with opened([lower], tmp_path) as tree, tree.open(b"two/single") as node:
        tree.unlink(b"two/single")
        tree.overlay.files.open(node, os.O_RDWR, lambda: False)
        tree.overlay.files.write(node, 0, b"two")
        assert tree.overlay.files.read(node, 0, 100, lambda: False) == b"two name"
        assert tree.overlay.files.attributes(node).nlink == 0
        tree.overlay.release(node)
    assert os.listdir(tmp_path / "work/work") in ([], ["whiteout"])


def test_a_copy_that_was_interrupted_gets_all_of_its_names(lower: Path, tmp_path: Path, opened: Open) -> None:
    """As a crash leaves it: the copy is staged still, and has one name of three."""
    with opened([lower], tmp_path) as tree:
        tree.write(b"two/c", b"new")
    upper, work = tmp_path / "upper", tmp_path / "work/work"
    os.link(upper / "two/c", work / "0")
    for name in ("one/a", "one/deep/b"):
        (upper / name).unlink()
    with opened([lower], tmp_path) as tree:
        assert tree.read(b"one/a") == tree.read(b"one/deep/b") == b"new"
        assert counts(tree, b"one/a", b"one/deep/b", b"two/c") == {(tree.number(b"two/c"), 3)}
        assert not [path for path in work.iterdir() if path.is_file()]


def test_a_directory_that_is_moved_by_copying(lower: Path, tmp_path: Path) -> None:
    """With `user.*` marks the kernel follows no redirects, so there are none; what was removed is not listed either."""
    opened = opened_by_all
    with opened([lower], tmp_path) as tree:
        before = tree.number(b"one"), tree.number(b"one/deep"), tree.number(b"one/a")
        tree.create(b"one/deep/new", b"new")
        tree.unlink(b"one/deep/b")
        tree.rename(b"one", b"two/uno")
        assert tree.read(b"two/uno/a") == b"old"
    upper = tmp_path / "upper"
    assert (upper / "two/uno/a").read_bytes() == (upper / "two/c").read_bytes() == b"old"
    assert os.listdir(upper / "two/uno/deep") == ["new"]
    assert os.getxattr(upper / "two/uno", "user.overlay.opaque") == b"y"
    assert "user.overlay.redirect" not in os.listxattr(upper / "two/uno")
    with opened([lower], tmp_path) as tree:
        after = tree.number(b"two/uno"), tree.number(b"two/uno/deep"), tree.number(b"two/uno/a")
        assert after == before
        tree.rename(b"two/uno/deep", b"one")
        assert tree.listed(b"one").keys() == {b"new"}
        assert tree.number(b"one") == before[1]
