"""What is fetched along with a chunk, and ahead of a reader: rules that hold for any tree and any order."""

import itertools
import stat
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs._native.index import Chunk, Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from crfs.image.prefetch import (
    AHEAD_MAX,
    NEARBY,
    NOTHING,
    REACH,
    REACH_AGAIN,
    SMALL_MEMBER,
    WHOLE_CHUNKS,
    WHOLE_DIRECTORY,
    WHOLE_MAX,
    Prefetch,
)

# a file: its path, and the (blob offset, inner offset) of each of its chunks of 10 bytes
Files = Sequence[tuple[bytes, Sequence[tuple[int, int]]]]


def build(*layers: tuple[Files, int]) -> Tree:
    """Layers of files, and where each one's data end."""
    indexes = []
    for files, end in layers:
        index = LayerIndex()
        for path, chunks in files:
            index.add(path, stat.S_IFREG | 0o644, 0, 0, 10 * len(chunks), 0, 0, b"", None)
            for number, (blob_off, inner_off) in enumerate(chunks):
                index.add_chunk(10 * number, 10, blob_off, inner_off, None)
        index.seal(end)
        indexes.append(index)
    return Tree(merge(indexes))


def row(directory: bytes, count: int, size: int, start: int = 1) -> Files:
    """Files of one chunk, one behind the other in the blob."""
    return [(b"%s/%04d" % (directory, number), [(start + number * size, 0)]) for number in range(count)]


def chunks_of(tree: Tree, path: bytes) -> list[int]:
    inode = 1
    for name in path.split(b"/"):
        inode = tree.find(inode, name)
    return [chunk for chunk, _, _ in tree.cover(inode, 0, 1 << 40)]


def inode_of(tree: Tree, path: bytes) -> int:
    inode = 1
    for name in path.split(b"/"):
        inode = tree.find(inode, name)
    return inode


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Members of all sizes, some with two chunks; files of several chunks, in any order; two layers."""
    layers = []
    for number in range(draw(st.integers(1, 2))):
        sizes = draw(
            st.lists(st.sampled_from([1, 500, 20_000, 130_000, 200_000, 3_000_000]), min_size=1, max_size=12)
        )
        starts = [1, *itertools.accumulate(sizes, initial=1)][1:]
        places = [(start, 0) for start in starts[:-1]]
        places += [
            (start, 10) for start in draw(st.lists(st.sampled_from(starts[:-1]), max_size=4, unique=True))
        ]
        shuffled = draw(st.permutations(places)) if draw(st.booleans()) else sorted(places)
        files: list[tuple[bytes, Sequence[tuple[int, int]]]] = []
        while shuffled:
            count = draw(st.integers(1, 5))
            directory = draw(st.sampled_from([b"a", b"b", b"a/c"]))
            files.append((b"%s/%d-%d" % (directory, number, len(files)), shuffled[:count]))
            shuffled = shuffled[count:]
        layers.append((files, starts[-1]))
    return build(*layers)


@settings(max_examples=200, deadline=None)
@given(tree=trees(), data=st.data())
def test_rules_for_neighbours(tree: Tree, data: st.DataObject) -> None:
    prefetch = Prefetch(tree)
    for number in data.draw(st.lists(st.integers(0, tree.chunks - 1), min_size=1, max_size=8)):
        along = prefetch.along(number)
        at = tree.chunk(number)
        near = [tree.chunk(other) for other in (*along.before, *along.after)]
        assert number not in {other.id for other in near}
        assert {other.layer for other in near} <= {at.layer}
        check_order(
            at, [tree.chunk(other) for other in along.before], [tree.chunk(other) for other in along.after]
        )
        check_cost(tree, at, near)


def check_order(at: Chunk, before: list[Chunk], after: list[Chunk]) -> None:
    """Away from the chunk, step by step, so that whatever is left out at the end leaves one range."""
    assert [other.blob_off for other in before] == sorted((other.blob_off for other in before), reverse=True)
    assert [other.blob_off for other in after] == sorted(other.blob_off for other in after)
    assert all(other.blob_off <= at.blob_off for other in before)
    assert all(other.blob_off >= at.blob_off for other in after)


def check_cost(tree: Tree, at: Chunk, near: list[Chunk]) -> None:
    """What is asked for more than the chunk is bounded, and lies in the same directory or file, or near."""
    start = min([at.blob_off, *(other.blob_off for other in near)])
    end = max([at.blob_end, *(other.blob_end for other in near)])
    file = tree.file_chunks(at.id)
    if near and 1 < len(file) <= WHOLE_CHUNKS:
        assert {at.id, *(other.id for other in near)} == set(file)
        assert end - start <= WHOLE_MAX
    elif near:
        assert max(at.blob_off - start, end - at.blob_end) <= max(REACH_AGAIN, WHOLE_DIRECTORY)
        assert all(other.blob_end - other.blob_off <= SMALL_MEMBER for other in [at, *near])
        for other in near:
            away = max(at.blob_off - other.blob_off, other.blob_end - at.blob_end)
            assert away <= NEARBY or tree.directory(other.id) == tree.directory(at.id)


def test_neighbours_on_both_sides() -> None:
    tree = build((row(b"d", 9, 1000), 9001))
    chunk = chunks_of(tree, b"d/0004")[0]
    names = [chunks_of(tree, b"d/%04d" % number)[0] for number in range(9)]
    along = Prefetch(tree).along(chunk)
    assert list(along.before) == names[3::-1]
    assert list(along.after) == names[5:]


def test_neighbours_of_another_directory_come_along_if_they_are_near() -> None:
    size = NEARBY // 2
    names = [(b"a", 3), (b"b", 3), (b"c", 3)]
    files = [row(name, count, size, 1 + 3 * size * number) for number, (name, count) in enumerate(names)]
    tree = build(([*files[0], *files[1], *files[2]], 1 + 9 * size))
    along = Prefetch(tree).along(chunks_of(tree, b"b/0001")[0])
    wanted = [b"b/0000", b"a/0002", b"b/0002", b"c/0000"]
    assert [*along.before, *along.after] == [chunks_of(tree, name)[0] for name in wanted]


def test_directory_that_lies_together_comes_whole() -> None:
    count = WHOLE_DIRECTORY // 10_000
    tree = build((row(b"d", count, 10_000), count * 10_000 + 1))
    along = Prefetch(tree).along(chunks_of(tree, b"d/0000")[0])
    assert len(along.after) == count - 1


def test_further_misses_in_a_large_directory_reach_further() -> None:
    tree = build((row(b"d", 200, 10_000), 2_000_001))
    prefetch = Prefetch(tree)
    chunk = chunks_of(tree, b"d/0100")[0]
    reached = [len(prefetch.along(chunk).after) * 10_000 for _ in range(3)]
    assert REACH - 10_000 < reached[0] <= REACH
    assert all(REACH_AGAIN - 10_000 < far <= REACH_AGAIN for far in reached[1:])


def test_large_member_travels_alone() -> None:
    size = SMALL_MEMBER + 1
    tree = build(([(b"d/a", [(1, 0)]), (b"d/b", [(1001, 0)]), (b"d/c", [(1001 + size, 0)])], 3000 + size))
    prefetch = Prefetch(tree)
    assert prefetch.along(chunks_of(tree, b"d/b")[0]) == NOTHING
    # and nothing reaches across it
    assert prefetch.along(chunks_of(tree, b"d/a")[0]).after == []
    assert prefetch.along(chunks_of(tree, b"d/c")[0]).before == []


def test_file_of_few_chunks_comes_whole() -> None:
    places = [(1 + 1_000_000 * number, 0) for number in range(WHOLE_CHUNKS)]
    tree = build(([(b"f", places), (b"g", [(3_000_001, 0)])], 3_000_100))
    chunks = chunks_of(tree, b"f")
    along = Prefetch(tree).along(chunks[1])
    assert (list(along.before), list(along.after)) == ([chunks[0]], [chunks[2]])


def test_reader_that_goes_on_is_preceded() -> None:
    places = [(1 + 1000 * number, 0) for number in range(30)]
    tree = build(([(b"f", places)], 40_000))
    chunks, inode = chunks_of(tree, b"f"), inode_of(tree, b"f")
    prefetch = Prefetch(tree)
    assert list(prefetch.ahead(inode, chunks[0])) == []
    ahead = [list(prefetch.ahead(inode, chunk)) for chunk in chunks[1:]]
    assert ahead[0][0] == chunks[2]
    assert max(map(len, ahead)) == AHEAD_MAX
    for at, found in enumerate(ahead, 1):
        # the next ones, and never any behind the end of the file
        assert found == chunks[at + 1 : at + 1 + len(found)]
        assert found or at == len(chunks) - 1


@pytest.mark.parametrize("order", [[5, 3, 1], [0, 2, 4, 6], [7, 7, 7], [9, 8, 7]])
def test_reader_that_jumps_is_not(order: list[int]) -> None:
    tree = build(([(b"f", [(1 + 1000 * number, 0) for number in range(10)])], 20_000))
    chunks, inode = chunks_of(tree, b"f"), inode_of(tree, b"f")
    prefetch = Prefetch(tree)
    assert [list(prefetch.ahead(inode, chunks[number])) for number in order] == [[]] * len(order)


def test_several_reads_of_one_chunk_are_one_step() -> None:
    tree = build(([(b"f", [(1 + 1000 * number, 0) for number in range(10)])], 20_000))
    chunks, inode = chunks_of(tree, b"f"), inode_of(tree, b"f")
    prefetch = Prefetch(tree)
    found = [list(prefetch.ahead(inode, chunks[number])) for number in (0, 0, 0, 1, 1, 1, 2)]
    assert [bool(part) for part in found] == [False, False, False, True, False, False, True]


def test_two_readers_do_not_disturb_each_other() -> None:
    places = [(1 + 1000 * number, 0) for number in range(10)]
    more = [(20_001 + 1000 * number, 0) for number in range(10)]
    tree = build(([(b"f", places), (b"g", more)], 40_000))
    prefetch = Prefetch(tree)
    for step in range(1, 9):
        for name in (b"f", b"g"):
            chunks = chunks_of(tree, name)
            prefetch.ahead(inode_of(tree, name), chunks[step - 1])
            assert prefetch.ahead(inode_of(tree, name), chunks[step])[0] == chunks[step + 1]


@settings(max_examples=100, deadline=None)
@given(tree=trees(), data=st.data())
def test_rules_for_what_lies_ahead(tree: Tree, data: st.DataObject) -> None:
    prefetch = Prefetch(tree)
    for number in data.draw(st.lists(st.integers(0, tree.chunks - 1), max_size=20)):
        file = tree.file_chunks(number)
        ahead = list(prefetch.ahead(number, number))
        assert len(ahead) <= AHEAD_MAX
        assert set(ahead) <= set(file)
        assert ahead == list(range(number + 1, number + 1 + len(ahead)))


def test_what_is_remembered_is_bounded() -> None:
    files = [(b"%d/f" % number, [(1 + 2 * number, 0), (2 + 2 * number, 0)]) for number in range(3000)]
    tree = build((files, 10_000))
    prefetch = Prefetch(tree)
    for chunk in range(tree.chunks):
        prefetch.along(chunk)
        prefetch.ahead(chunk // 2 + 1, chunk)
    assert len(prefetch._streams) <= 1024
    assert len(prefetch._missed) <= 1024


def test_any_thread_may_ask() -> None:
    tree = build((row(b"d", 500, 1000), 500_001))
    prefetch = Prefetch(tree)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for chunk in range(tree.chunks):
                prefetch.along(chunk)
                prefetch.ahead(chunk % 7 + 1, chunk)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
