"""Merging layers: each rule by example, and all of them together against the oracle."""

import stat

import pytest
from hypothesis import given, settings

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from crfs.errors import FormatError
from tests.support.union_check import merged, merged_files
from tests.support.union_entries import (
    DATA_END,
    Entry,
    directory,
    fifo,
    file,
    hardlink,
    indexed,
    opaque,
    plain,
    stacks,
    symlink,
    whiteout,
)
from tests.support.union_oracle import Seen, look_at, merge_plainly


def test_no_layer_leaves_an_empty_root() -> None:
    assert merged() == {b"": Seen(0o40755, 0, 0, 0, 0, 0, 2, b"", {}, (), frozenset([b""]))}


def test_an_entry_for_the_root_sets_its_attributes() -> None:
    root = merged(
        [directory(b"./", mode=0o700, mtime_ns=1)], [directory(b".", mode=0o711, mtime_ns=2), file(b"a")]
    )
    assert (root[b""].mode, root[b""].mtime_ns, root[b""].uid) == (0o40711, 2, 3)


def test_implied_parents_are_root_s_and_have_no_time() -> None:
    implied = merged([file(b"a/b/c", 1)])[b"a/b"]
    assert (implied.mode, implied.uid, implied.gid, implied.mtime_ns, implied.nlink) == (0o40755, 0, 0, 0, 2)


def test_an_implied_parent_takes_the_attributes_that_come_later() -> None:
    assert merged([file(b"a/b", 1), directory(b"a", mode=0o700)])[b"a"].mode == 0o40700


def test_a_directory_updates_a_directory_and_keeps_what_is_in_it() -> None:
    upper = Entry(b"d", stat.S_IFDIR | 0o711, xattrs={b"user.new": b"2"})
    lower = Entry(b"d", stat.S_IFDIR | 0o755, uid=9, xattrs={b"user.old": b"1"})
    seen = merged([lower, file(b"d/a", 1)], [upper])
    assert seen[b"d/a"].pieces[0].blob_off == 1
    assert (seen[b"d"].mode, seen[b"d"].uid, seen[b"d"].xattrs) == (0o40711, 0, {b"user.new": b"2"})


def test_a_file_replaces_a_directory_with_all_below() -> None:
    assert merged_files([file(b"d/a/b", 1), file(b"e", 2)], [file(b"d", 3)]) == {b"d": 3, b"e": 2}


def test_a_directory_replaces_a_file() -> None:
    seen = merged([file(b"d", 1)], [directory(b"d")])
    assert stat.S_ISDIR(seen[b"d"].mode)
    assert len(seen) == 2


def test_a_directory_replaces_a_symlink_to_a_directory() -> None:
    layers = [directory(b"d"), file(b"d/a", 1), symlink(b"l", b"d")], [directory(b"l"), file(b"l/b", 2)]
    assert merged_files(*layers) == {b"d/a": 1, b"l/b": 2}


def test_a_file_in_the_way_becomes_an_implied_directory() -> None:
    seen = merged([file(b"d", 1)], [file(b"d/a", 2)])
    assert (seen[b"d"].mode, seen[b"d"].uid) == (0o40755, 0)


def test_the_last_of_one_name_wins_and_takes_the_chunks_with_it() -> None:
    tree = Tree(merge([indexed([file(b"a", 1), file(b"b", 2), file(b"a", 3)])]))
    assert tree.chunks == 2
    assert merged_files([file(b"a", 1), file(b"b", 2), file(b"a", 3)]) == {b"a": 3, b"b": 2}


def test_an_upper_file_is_another_inode_than_the_lower_one_s_other_names() -> None:
    seen = merged([file(b"a", 1), hardlink(b"b", b"a")], [file(b"a", 2)])
    assert (seen[b"a"].nlink, seen[b"b"].nlink) == (1, 1)
    assert seen[b"b"].pieces[0].blob_off == 1


def test_each_chunk_knows_its_layer() -> None:
    seen = merged([file(b"a", 1)], [], [file(b"b", 2)])
    assert (seen[b"a"].pieces[0].layer, seen[b"b"].pieces[0].layer) == (0, 2)


# whiteouts


def test_a_whiteout_hides_a_lower_file_and_is_not_shown() -> None:
    assert set(merged([file(b"a", 1), file(b"b", 2)], [whiteout(b"a")])) == {b"", b"b"}


def test_a_whiteout_hides_a_lower_directory_with_all_below() -> None:
    assert set(merged([file(b"d/e/a", 1)], [whiteout(b"d/e")])) == {b"", b"d"}


def test_a_whiteout_of_nothing_does_nothing() -> None:
    assert set(merged([file(b"a", 1)], [whiteout(b"b"), whiteout(b"x/y"), whiteout(b"a/z")])) == {b"", b"a"}


@pytest.mark.parametrize("marked_first", [False, True])
def test_a_whiteout_does_not_hide_its_own_layer_s_file(marked_first: bool) -> None:
    upper = [file(b"a", 2), whiteout(b"a")]
    assert merged_files([file(b"a", 1)], upper[::-1] if marked_first else upper) == {b"a": 2}


@pytest.mark.parametrize("marked_first", [False, True])
def test_a_whiteout_leaves_a_directory_what_its_own_layer_put_there(marked_first: bool) -> None:
    upper = [file(b"d/e/new", 2), whiteout(b"d")]
    lower = [directory(b"d"), file(b"d/old", 1), file(b"d/e/old", 1)]
    assert merged_files(lower, upper[::-1] if marked_first else upper) == {b"d/e/new": 2}


def test_a_whiteout_of_a_touched_directory_keeps_its_attributes() -> None:
    seen = merged([directory(b"d", mode=0o700), file(b"d/old", 1)], [file(b"d/new", 2), whiteout(b"d")])
    assert seen[b"d"].mode == 0o40700


def test_a_whiteout_of_one_name_leaves_the_other_one() -> None:
    seen = merged([file(b"a", 1), hardlink(b"b", b"a")], [whiteout(b"a")])
    assert seen[b"b"].nlink == 1
    assert b"a" not in seen


def test_a_whiteout_of_a_symlink_removes_the_symlink() -> None:
    assert set(merged([file(b"d/a", 1), symlink(b"l", b"d")], [whiteout(b"l")])) == {b"", b"d", b"d/a"}


def test_a_whiteout_reaches_through_a_symlink() -> None:
    assert set(merged([file(b"d/a", 1), symlink(b"l", b"d")], [whiteout(b"l/a")])) == {b"", b"d", b"l"}


def test_a_whiteout_makes_no_parents() -> None:
    assert set(merged([], [whiteout(b"x/y"), opaque(b"z")])) == {b""}


def test_a_whiteout_may_be_of_any_type() -> None:
    marks = [directory(b".wh.a"), symlink(b".wh.b", b"x"), hardlink(b".wh.c", b"gone"), fifo(b".wh.d")]
    assert set(merged([file(name) for name in (b"a", b"b", b"c", b"d")], marks)) == {b""}


@pytest.mark.parametrize("name", [b".wh..wh.plnk", b".wh..wh.aufs", b".wh.", b".wh..", b".wh..."])
def test_reserved_names_are_never_shown_and_hide_nothing(name: bytes) -> None:
    assert merged_files([file(b"d/a", 1)], [file(b"b", 2), file(b"d/" + name, 3), file(b"c", 4)]) == {
        b"d/a": 1,
        b"b": 2,
        b"c": 4,
    }


# opaque directories


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_opaque_mark_hides_only_lower_children_wherever_it_stands(at: int) -> None:
    upper = [directory(b"d", mode=0o711), file(b"d/new", 2), file(b"d/e/new", 3)]
    upper.insert(at, opaque(b"d"))
    lower = [directory(b"d"), file(b"d/old", 1), file(b"d/e/old", 1), file(b"old", 1)]
    assert merged_files(lower, upper) == {b"d/new": 2, b"d/e/new": 3, b"old": 1}


def test_an_opaque_mark_leaves_the_directory_s_attributes() -> None:
    seen = merged([directory(b"d", mode=0o700), file(b"d/a", 1)], [opaque(b"d")])
    assert (seen[b"d"].mode, seen[b"d"].nlink, len(seen)) == (0o40700, 2, 2)


def test_an_opaque_mark_at_the_root_hides_all_below() -> None:
    assert merged_files([file(b"a", 1), file(b"d/b", 2)], [file(b"d/c", 3), opaque(b".")]) == {b"d/c": 3}


def test_an_opaque_mark_reaches_through_a_symlink() -> None:
    assert set(merged([file(b"d/a", 1), symlink(b"l", b"/d")], [opaque(b"l")])) == {b"", b"d", b"l"}


def test_an_opaque_mark_in_a_file_does_nothing() -> None:
    assert merged_files([file(b"a", 1)], [opaque(b"a")]) == {b"a": 1}


def test_layers_above_an_opaque_mark_add_to_what_it_left() -> None:
    layers = [file(b"d/a", 1)], [opaque(b"d"), file(b"d/b", 2)], [file(b"d/c", 3), whiteout(b"d/b")]
    assert merged_files(*layers) == {b"d/c": 3}


# attributes and names


def test_all_attributes_arrive() -> None:
    big = 2**32 - 1
    entry = Entry(
        b"a", stat.S_IFREG | 0o7777, uid=big, gid=big - 1, mtime_ns=-1, mark=5, xattrs={b"user.x": b"\0\xff"}
    )
    seen = merged([entry])[b"a"]
    assert (seen.mode, seen.uid, seen.gid, seen.mtime_ns) == (0o107777, big, big - 1, -1)
    assert seen.xattrs == {b"user.x": b"\0\xff"}


def test_many_xattrs_arrive() -> None:
    xattrs = {b"user." + b"n" * i: bytes([i]) * i for i in range(1, 200)} | {
        b"user.none": b"",
        b"user.big": b"x" * 65536,
    }
    assert merged([Entry(b"d", stat.S_IFDIR | 0o755, xattrs=xattrs)])[b"d"].xattrs == xattrs


def test_directories_count_their_subdirectories() -> None:
    seen = merged(
        [directory(b"d/a"), directory(b"d/b"), file(b"d/c"), symlink(b"d/l", b"a")], [whiteout(b"d/a")]
    )
    assert (seen[b""].nlink, seen[b"d"].nlink, seen[b"d/b"].nlink) == (3, 3, 2)


@pytest.mark.parametrize("name", [b"n" * 255, "ä".encode() * 127, b"\xff\xfe", b" ", b"-\n", b"..."])
def test_any_name_of_up_to_255_bytes_is_kept(name: bytes) -> None:
    assert set(merged([file(b"d/" + name, 1)])) == {b"", b"d", b"d/" + name}
    assert set(merged([file(b"d/" + name, 1)], [whiteout(b"d/" + name)])) == {b"", b"d"}


@pytest.mark.parametrize(
    "path", [b"n" * 256, b"d/" + b"n" * 256 + b"/x", b".wh." + b"n" * 256, b".wh." + b"n" * 252 + b"/x"]
)
def test_should_fail_at_names_over_255_bytes(path: bytes) -> None:
    with pytest.raises(FormatError, match="no file can have"):
        indexed([file(path)])


def test_names_are_sorted_by_bytes() -> None:
    names = [b"a", b"a\xff", b"aa", b"b", b"B", b"\x80", b"a.", b"a-"]
    tree = Tree(merge([indexed([file(name) for name in names])]))
    assert [name for name, _, _ in tree.entries(1, 0, 100)] == sorted(names)


# the image


def test_the_same_layers_make_the_same_bytes() -> None:
    stack = [
        [file(b"d/%d" % i, i + 1) for i in range(50)],
        [hardlink(b"x", b"d/7"), whiteout(b"d/8"), symlink(b"l", b"d")],
    ]
    assert merge([indexed(layer) for layer in stack]) == merge([indexed(layer) for layer in stack])


def test_one_index_may_be_merged_twice_and_with_itself() -> None:
    layer = indexed([file(b"a", 1), directory(b"d")])
    assert merge([layer]) == merge([layer])
    assert merge([layer, layer]) != merge([layer])


def test_inodes_are_numbered_breadth_first() -> None:
    tree = Tree(merge([indexed([file(b"b/x"), file(b"a/y/z"), file(b"c")])]))
    assert [tree.path(inode) for inode in range(1, tree.inodes + 1)] == [
        b"",
        b"a",
        b"b",
        b"c",
        b"a/y",
        b"b/x",
        b"a/y/z",
    ]


def test_chunks_are_ranked_as_they_lie_in_their_blobs() -> None:
    tree = Tree(merge([indexed([file(b"a", 30), file(b"b", 10), file(b"c", 20)]), indexed([file(b"d", 5)])]))
    start = tree.find(1, b"b")
    (chunk, _, _), *_ = tree.cover(start, 0, 1)
    before, after = tree.around(chunk, DATA_END, 0, DATA_END)
    assert [tree.chunk(other).blob_off for other in after] == [20, 30]
    assert before == []


def test_should_fail_without_an_index() -> None:
    with pytest.raises(TypeError):
        merge([None])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        merge(LayerIndex())  # type: ignore[arg-type]


@given(stack=stacks())
@settings(max_examples=400, deadline=None)
def test_random_stacks_are_what_the_oracle_makes_of_them(stack: list[list[Entry]]) -> None:
    try:
        wanted = merge_plainly([plain(layer) for layer in stack]).look()
    except FormatError:
        wanted = None
    try:
        found = look_at(Tree(merge([indexed(layer) for layer in stack])))
    except FormatError:
        found = None
    assert found == wanted
