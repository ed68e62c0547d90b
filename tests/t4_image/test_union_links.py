"""Symbolic links on the way of an entry, and hard links: what merging makes of them, by example."""

import stat
import time

import pytest

from crfs._native.index import Tree
from crfs._native.union import merge
from crfs.errors import FormatError
from tests.support.union_check import merged, merged_files, refused
from tests.support.union_entries import (
    Entry,
    directory,
    fifo,
    file,
    hardlink,
    indexed,
    opaque,
    symlink,
    whiteout,
)

# symbolic links on the way


def test_a_parent_is_resolved_through_a_lower_symlink() -> None:
    layers = [directory(b"usr/lib", mode=0o711), symlink(b"lib", b"usr/lib")], [file(b"lib/x", 1)]
    seen = merged(*layers)
    assert set(seen) == {b"", b"usr", b"usr/lib", b"usr/lib/x", b"lib"}
    assert seen[b"usr/lib"].mode == 0o40711


@pytest.mark.parametrize(
    ("target", "real"),
    [
        (b"/abs", b"abs/x"),
        (b"../../../up", b"up/x"),
        (b"none/deep", b"d/none/deep/x"),
        (b".", b"d/x"),
        (b"..", b"x"),
        (b"/", b"x"),
        (b"m", b"d/n/x"),
        (b"m/../o", b"d/o/x"),
        (b"none/../o", b"d/o/x"),
        (b"none/../../o", b"o/x"),
        (b"././/o//", b"d/o/x"),
        (b"f/../o", b"d/o/x"),
    ],
)
def test_symlinks_lead_where_they_do_inside_of_the_root(target: bytes, real: bytes) -> None:
    layer = [file(b"d/f", 1), symlink(b"d/m", b"n"), symlink(b"d/l", target)]
    seen = merged(layer, [file(b"d/l/x", 2)])
    assert seen[real].pieces[0].blob_off == 2
    assert b"d/none" not in seen or real.startswith(b"d/none")
    assert b"d/f" in seen


def test_what_a_symlink_only_passes_is_not_touched() -> None:
    lower = [directory(b"p"), directory(b"d"), symlink(b"l", b"p/../d")]
    assert set(merged(lower, [file(b"l/x", 1), whiteout(b"p"), whiteout(b"l")])) == {b"", b"d", b"d/x"}


def test_a_symlink_of_the_same_layer_counts() -> None:
    assert merged_files([symlink(b"l", b"d"), file(b"l/x", 1)], [file(b"l/y", 2)]) == {b"d/x": 1, b"d/y": 2}


@pytest.mark.parametrize("loop", [[symlink(b"l", b"l")], [symlink(b"l", b"m"), symlink(b"m", b"/l/x")]])
@pytest.mark.parametrize("entry", [file(b"l/a", 1), whiteout(b"l/a"), opaque(b"l"), hardlink(b"l/a", b"f")])
def test_should_fail_behind_a_symlink_loop(loop: list[Entry], entry: Entry) -> None:
    assert "symbolic links" in refused([*loop, file(b"f", 1), entry])


def test_a_symlink_loop_that_nothing_passes_is_kept() -> None:
    assert merged([symlink(b"l", b"l")])[b"l"].link == b"l"


def _chain(length: int) -> list[Entry]:
    links = [symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(1, length)]
    return [*links, symlink(b"l%d" % length, b"d"), file(b"l1/x", 1)]


def test_forty_symlinks_may_be_followed() -> None:
    assert merged_files(_chain(40)) == {b"d/x": 1}


def test_should_fail_at_the_forty_first_symlink() -> None:
    refused(_chain(41))


def test_should_fail_soon_where_symlinks_multiply() -> None:
    links = [symlink(b"l%d" % i, b"/".join([b"l%d/.." % (i + 1)] * 100)) for i in range(38)]
    started = time.monotonic()
    assert "symbolic links" in refused([*links, directory(b"l38"), file(b"l0/x", 1)])
    assert time.monotonic() - started < 5


def test_should_fail_behind_a_symlink_to_a_name_too_long() -> None:
    assert "no path" in refused([symlink(b"l", b"n" * 256), file(b"l/x", 1)])


def test_should_fail_where_symlinks_lead_deeper_than_any_path() -> None:
    deep = b"/".join([b"d"] * 1500)
    assert "no path" in refused([symlink(b"l", deep), symlink(b"l/l", deep), file(b"l/l/x", 1)])


def test_a_path_of_2048_levels_is_kept_and_can_be_removed() -> None:
    deep = b"/".join([b"d"] * 2048)
    tree = Tree(merge([indexed([directory(deep)])]))
    assert tree.inodes == 2049
    assert tree.path(2049) == deep
    assert Tree(merge([indexed([directory(deep)]), indexed([whiteout(b"d")])])).inodes == 1


def test_should_fail_at_2049_levels() -> None:
    with pytest.raises(FormatError, match="2049 levels"):
        indexed([directory(b"/".join([b"d"] * 2049))])


# hard links


def test_hard_links_are_one_inode() -> None:
    seen = merged([file(b"a", 1), hardlink(b"d/b", b"a"), hardlink(b"c", b"d/b")])
    names = frozenset([b"a", b"c", b"d/b"])
    assert [(seen[path].nlink, seen[path].names) for path in sorted(names)] == [(3, names)] * 3


@pytest.mark.parametrize("lower", [[], [file(b"a", 9)]])
def test_a_hard_link_may_come_before_its_target(lower: list[Entry]) -> None:
    assert merged_files(lower, [hardlink(b"b", b"a"), file(b"a", 1)]) == {b"a": 1, b"b": 1}


def test_hard_links_to_hard_links_may_come_in_any_order() -> None:
    assert merged_files(
        [hardlink(b"d", b"c"), hardlink(b"b", b"a"), hardlink(b"c", b"b"), file(b"a", 1)]
    ) == dict.fromkeys([b"a", b"b", b"c", b"d"], 1)


def test_a_long_chain_of_hard_links_takes_no_long_time() -> None:
    links = [hardlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(20000)]
    started = time.monotonic()
    tree = Tree(merge([indexed([*links, file(b"l20000", 1)])]))
    assert time.monotonic() - started < 5
    assert (tree.inodes, tree.attributes(2).nlink) == (2, 20001)


def test_a_hard_link_reaches_into_a_lower_layer() -> None:
    seen = merged([file(b"a", 1)], [hardlink(b"b", b"a")], [hardlink(b"c", b"b"), whiteout(b"a")])
    assert seen[b"c"].names == frozenset([b"b", b"c"])
    assert seen[b"c"].nlink == 2


def test_a_hard_link_keeps_a_lower_target_that_is_hidden_or_replaced_behind_it() -> None:
    assert merged_files([file(b"a", 1)], [hardlink(b"b", b"a"), whiteout(b"a")]) == {b"b": 1}
    assert merged_files([file(b"a", 1)], [hardlink(b"b", b"a"), directory(b"a")]) == {b"b": 1}


def test_a_hard_link_has_its_turn_even_if_it_waits() -> None:
    lower = [file(b"a", 1), file(b"d/old", 2)]
    assert merged_files(lower, [hardlink(b"b", b"a"), file(b"b", 3)]) == {b"a": 1, b"d/old": 2, b"b": 3}
    assert merged_files(lower, [hardlink(b"d/b", b"a"), whiteout(b"d")]) == {b"a": 1, b"d/b": 1}
    assert merged_files(lower, [hardlink(b"b", b"late"), file(b"b", 3), file(b"late", 4)])[b"b"] == 3


def test_hard_links_may_change_places_only_one_after_the_other() -> None:
    assert merged_files([file(b"a", 1), file(b"b", 2)], [hardlink(b"a", b"b"), hardlink(b"b", b"a")]) == {
        b"a": 2,
        b"b": 2,
    }


def test_a_hard_link_reaches_through_symlinks_but_links_to_one_itself() -> None:
    layer = [
        directory(b"d"),
        symlink(b"l", b"d"),
        file(b"d/a", 1),
        hardlink(b"l/b", b"l/a"),
        hardlink(b"m", b"l"),
    ]
    seen = merged(layer)
    assert seen[b"d/b"].names == frozenset([b"d/a", b"d/b"])
    assert (seen[b"m"].link, seen[b"m"].nlink) == (b"d", 2)


def test_a_hard_link_to_itself_is_what_is_there() -> None:
    assert merged_files([file(b"a", 1)], [hardlink(b"a", b"a")]) == {b"a": 1}
    assert merged_files([file(b"a", 1), hardlink(b"a", b"a")]) == {b"a": 1}


def test_a_hard_link_replaces_a_directory() -> None:
    assert merged_files([file(b"d/x", 1), file(b"a", 2)], [hardlink(b"d", b"a")]) == {b"a": 2, b"d": 2}


def test_links_to_devices_and_fifos() -> None:
    device = Entry(b"null", stat.S_IFCHR | 0o666, rdev=0x103)
    seen = merged([device, hardlink(b"zero", b"null"), fifo(b"p"), hardlink(b"q", b"p")])
    assert (seen[b"zero"].rdev, seen[b"zero"].nlink) == (0x103, 2)
    assert stat.S_ISFIFO(seen[b"q"].mode)


def test_should_fail_at_a_dangling_hard_link() -> None:
    said = refused([file(b"a", 1), hardlink(b"b", b"gone/c")])
    assert "b'b'" in said
    assert "b'gone/c'" in said


def test_should_fail_at_a_hard_link_to_what_is_hidden_before_it() -> None:
    refused([file(b"a", 1)], [whiteout(b"a"), hardlink(b"b", b"a")])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_should_fail_at_a_cycle_of_hard_links(length: int) -> None:
    links = [hardlink(b"l%d" % i, b"l%d" % ((i + 1) % length)) for i in range(length)]
    said = refused([file(b"a", 1), *links])
    assert f"b'l{length - 1}'" in said
    assert "b'l0'" in said


@pytest.mark.parametrize("target", [b"d", b"l/.."])
def test_should_fail_at_a_hard_link_to_a_directory(target: bytes) -> None:
    layer = [directory(b"d"), symlink(b"d/l", b"."), hardlink(b"x", target)]
    if target == b"d":
        assert "to the directory b'd'" in refused(layer)
    else:
        with pytest.raises(FormatError, match="root"):
            indexed(layer)
