"""Lookups in a tree image against dicts and lists, and images that are damaged."""

import mmap
import random
import stat
import struct
import tempfile
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs._native.index import Chunk, Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from crfs.errors import FormatError

_REG = stat.S_IFREG | 0o644
_DIR = stat.S_IFDIR | 0o755
_LNK = stat.S_IFLNK | 0o777


def _layer(*files: tuple[bytes, list[tuple[int, int, int, int]]], size: int = 1000) -> LayerIndex:
    """Files of 1000 bytes with chunks (file_off, size, blob_off, inner_off)."""
    index = LayerIndex()
    for path, chunks in files:
        index.add(path, _REG, 1, 2, size, 3, 0, b"", None)
        for chunk in chunks:
            index.add_chunk(*chunk, None)
    index.seal(1 << 20)
    return index


def _names(*names: bytes) -> Tree:
    return Tree(merge([_layer(*((name, []) for name in names))]))


def _rich() -> bytes:
    """An image with something in every table."""
    index = LayerIndex()
    index.add(b"d", _DIR, 1, 2, 0, 3, 0, b"", {b"user.a": b"1", b"user.b": b"22"})
    index.add(b"d/e", _DIR, 1, 2, 0, 3, 0, b"", None)
    index.add(b"d/e/f", _REG, 1, 2, 100, 3, 0, b"", {b"user.c": b""})
    index.add_chunk(0, 50, 10, 0, b"x" * 32)
    index.add_chunk(50, 50, 20, 0, None)
    index.add(b"l", _LNK, 1, 2, 0, 3, 0, b"d/e/f", None)
    index.add_hardlink(b"h", b"d/e/f")
    index.add(b"g", _REG, 1, 2, 100, 3, 0, b"", None)
    index.add_chunk(10, 50, 20, 50, None)
    index.seal(1000)
    return merge([index, _layer((b"top", [(0, 1000, 5, 0)]))])


# names


def _is_plain(name: bytes) -> bool:
    """Whether a layer shows an entry of this name."""
    return name not in (b".", b"..") and not name.startswith(b".wh.") and not set(name) & set(b"\0/")


@given(st.sets(st.binary(min_size=1, max_size=6).filter(_is_plain), max_size=40))
def test_find_is_a_dict(names: set[bytes]) -> None:
    tree = _names(*names)
    found = {name: inode for name, inode, _ in tree.entries(1, 0, 1000)}
    assert sorted(found) == sorted(names)
    assert {name: tree.find(1, name) for name in names} == found
    for name in names:
        for other in (name + b"a", name[:-1], name + b"\0", b"\xff" + name):
            assert tree.find(1, other) == found.get(other, 0)


def test_find_in_what_is_no_directory_finds_nothing() -> None:
    tree = _names(b"a")
    assert tree.find(tree.find(1, b"a"), b"a") == 0
    assert tree.find(1, b"") == 0


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_entries_come_in_pages(count: int, start: int, limit: int) -> None:
    tree = _names(*(b"%02d" % i for i in range(count)))
    entries = tree.entries(1, 0, count)
    assert len(entries) == count
    assert tree.entries(1, start, limit) == entries[start : start + limit]


def test_should_fail_to_list_what_is_no_directory() -> None:
    tree = _names(b"a")
    with pytest.raises(NotADirectoryError):
        tree.entries(2, 0, 10)


def test_parents_and_paths() -> None:
    tree = Tree(_rich())
    for path in (b"d", b"d/e", b"l", b"g"):
        inode, parent = 1, 1
        for name in path.split(b"/"):
            parent, inode = inode, tree.find(inode, name)
        assert (tree.path(inode), tree.parent(inode)) == (path, parent)
    assert (tree.path(1), tree.parent(1)) == (b"", 1)


def test_attributes_links_and_xattrs() -> None:
    tree = Tree(_rich())
    link, top = tree.find(1, b"l"), tree.find(1, b"d")
    assert tree.attributes(link) == (_LNK, 1, 1, 2, 0, 5, 3)
    assert tree.readlink(link) == b"d/e/f"
    assert tree.xattrs(top) == {b"user.a": b"1", b"user.b": b"22"}
    assert tree.xattrs(link) == {}
    assert (tree.has_xattrs, tree.file_bytes) == (True, 1200)
    assert not _names(b"a").has_xattrs


@pytest.mark.parametrize(
    "ask",
    [
        lambda tree, number: tree.attributes(number),
        lambda tree, number: tree.parent(number),
        lambda tree, number: tree.find(number, b"a"),
        lambda tree, number: tree.entries(number, 0, 1),
        lambda tree, number: tree.readlink(number),
        lambda tree, number: tree.xattrs(number),
        lambda tree, number: tree.path(number),
        lambda tree, number: tree.cover(number, 0, 1),
    ],
)
@pytest.mark.parametrize("number", [3, 2**32, 2**64 - 1])
def test_should_fail_without_such_an_inode(ask: Callable[[Tree, int], object], number: int) -> None:
    with pytest.raises(IndexError, match="no inode"):
        ask(_names(b"a"), number)


def test_should_fail_at_inode_zero() -> None:
    with pytest.raises(IndexError, match="no inode"):
        _names(b"a").attributes(0)


def test_should_fail_to_read_what_is_no_link_or_file() -> None:
    tree = Tree(_rich())
    with pytest.raises(ValueError, match="no symbolic link"):
        tree.readlink(1)
    with pytest.raises(ValueError, match="no regular file"):
        tree.cover(1, 0, 1)


# chunks


def _spans(lengths: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Chunks from (hole before it, size)."""
    chunks, at = [], 0
    for number, (hole, size) in enumerate(lengths):
        at += hole
        chunks.append((at, size, number + 1, 0))
        at += size
    return chunks


_LENGTHS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12)
_OFFSETS = st.one_of(st.integers(0, 120), st.integers(2**64 - 3, 2**64 - 1))


@given(_LENGTHS, _OFFSETS, _OFFSETS, st.integers(0, 20))
def test_cover_says_where_each_byte_lies(
    lengths: list[tuple[int, int]], off: int, size: int, rest: int
) -> None:
    chunks = _spans(lengths)
    length = (chunks[-1][0] + chunks[-1][1] if chunks else 0) + rest
    # another file before it, so that chunks do not start at 0
    tree = Tree(merge([_layer((b"a", [(0, 1, 999, 0)]), (b"b", chunks), size=max(length, 1))]))
    inode = tree.find(1, b"b")
    where = {
        at: (number + 1, at - chunk[0])
        for number, chunk in enumerate(chunks)
        for at in range(chunk[0], chunk[0] + chunk[1])
    }
    wanted = [where.get(at, (-1, 0)) for at in range(off, min(max(length, 1), off + size))]
    found: list[tuple[int, int]] = []
    for chunk, start, end in tree.cover(inode, off, size):
        assert start < end
        found += [(-1, 0) if chunk < 0 else (chunk, at) for at in range(start, end)]
    assert found == wanted


@given(_LENGTHS)
def test_file_chunks_are_all_of_the_file(lengths: list[tuple[int, int]]) -> None:
    tree = Tree(
        merge([_layer((b"a", [(0, 1, 999, 0)]), (b"b", _spans(lengths)), (b"d/c", [(0, 1, 998, 0)]))])
    )
    own = range(1, 1 + len(lengths))
    assert [tree.file_chunks(chunk) for chunk in own] == [own] * len(own)
    assert tree.file_chunks(0) == range(1)
    assert {tree.directory(chunk) for chunk in (0, *own)} == {1}
    assert tree.directory(own.stop) == tree.find(1, b"d")


def test_a_chunk_says_where_it_lies() -> None:
    index = _layer((b"a", [(0, 10, 5, 0), (10, 10, 5, 10)]))
    image = merge([LayerIndex(), index])
    assert Tree(image).chunk(1) == Chunk(1, 10, 10, 1, 5, 1 << 20, 10, None)
    assert Tree(_rich()).chunk(1).digest == b"x" * 32


# (layer, directory, member, place in the member)
_PLACES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 5), st.integers(0, 5)), max_size=15
)


def _placed(places: list[tuple[int, int, int, int]]) -> Tree:
    """A one-byte file for each place."""
    files: dict[int, list[tuple[bytes, list[tuple[int, int, int, int]]]]] = {0: [], 1: []}
    for i, (layer, directory, member, inner_off) in enumerate(places):
        files[layer].append((b"%d/%d" % (directory, i), [(0, 1, member * 10, inner_off)]))
    return Tree(merge([_layer(*files[0]), _layer(*files[1])]))


def _as_they_lie(tree: Tree) -> list[Chunk]:
    chunks = [tree.chunk(chunk) for chunk in range(tree.chunks)]
    return sorted(chunks, key=lambda chunk: (chunk.layer, chunk.blob_off, chunk.inner_off, chunk.id))


@given(_PLACES)
def test_members_are_all_chunks_of_one_layer_and_offset(places: list[tuple[int, int, int, int]]) -> None:
    tree = _placed(places)
    chunks = _as_they_lie(tree)
    for at in chunks:
        same = [other.id for other in chunks if (other.layer, other.blob_off) == (at.layer, at.blob_off)]
        assert tree.member(at.id) == same


def _neighbours(
    tree: Tree, at: Chunk, chunks: list[Chunk], reach: int, nearby: int, largest: int
) -> list[int]:
    """The first chunk of each other member, in this order, up to one that is too far, large or foreign."""
    found, seen = [], {at.blob_off}
    for other in chunks:
        if other.layer != at.layer or other.blob_off in seen:
            continue
        seen.add(other.blob_off)
        far = max(at.blob_off - other.blob_off, other.blob_end - at.blob_end)
        foreign = far > nearby and tree.directory(other.id) != tree.directory(at.id)
        if far > reach or other.blob_end - other.blob_off > largest or foreign:
            break
        found.append(other.id)
    return found


_BYTES = st.one_of(st.integers(0, 60), st.just(2**64 - 1))


@given(_PLACES, _BYTES, _BYTES, _BYTES)
def test_around_a_chunk_are_near_members(
    places: list[tuple[int, int, int, int]], reach: int, nearby: int, largest: int
) -> None:
    tree = _placed(places)
    chunks = _as_they_lie(tree)
    for at in chunks:
        before = [other for other in chunks if other.blob_off < at.blob_off]
        after = [other for other in chunks if other.blob_off > at.blob_off]
        wanted = (
            _neighbours(tree, at, before[::-1], reach, nearby, largest),
            _neighbours(tree, at, after, reach, nearby, largest),
        )
        assert tree.around(at.id, reach, nearby, largest) == wanted


@given(_PLACES, st.integers(0, 3), _BYTES, st.integers(1, 5))
def test_stretch_of_a_layer(
    places: list[tuple[int, int, int, int]], layer: int, blob_off: int, limit: int
) -> None:
    tree = _placed(places)
    behind = [at.id for at in _as_they_lie(tree) if at.layer == layer and at.blob_off >= blob_off]
    assert tree.stretch(layer, blob_off, limit) == behind[:limit]


@pytest.mark.parametrize(
    "ask",
    [
        lambda tree, number: tree.chunk(number),
        lambda tree, number: tree.member(number),
        lambda tree, number: tree.file_chunks(number),
        lambda tree, number: tree.directory(number),
        lambda tree, number: tree.around(number, 0, 0, 0),
    ],
)
def test_should_fail_without_such_a_chunk(ask: Callable[[Tree, int], object]) -> None:
    for tree in (_names(b"a"), Tree(_rich())):
        with pytest.raises(IndexError, match="no chunk"):
            ask(tree, tree.chunks)
        with pytest.raises(IndexError, match="no chunk"):
            ask(tree, 2**32 - 1)


# images


def _ask_everything(tree: Tree) -> None:
    """Call everything on everything, as a mount would."""
    for inode in range(1, tree.inodes + 1):
        mode = tree.attributes(inode).mode
        tree.path(inode)
        tree.xattrs(inode)
        tree.find(inode, b"d")
        if stat.S_ISDIR(mode):
            for _, child, _ in tree.entries(inode, 0, 2**32 - 1):
                tree.attributes(child)
        elif stat.S_ISLNK(mode):
            tree.readlink(inode)
        elif stat.S_ISREG(mode):
            tree.cover(inode, 0, 2**64 - 1)
            tree.cover(inode, 60, 10)
    for chunk in range(tree.chunks):
        tree.chunk(chunk)
        tree.member(chunk)
        tree.around(chunk, 1000, 0, 1000)
        assert chunk in tree.file_chunks(chunk)
        tree.attributes(tree.directory(chunk))


def _walk_down(tree: Tree, inode: int = 1) -> int:
    return 1 + sum(
        _walk_down(tree, child) for _, child, mode in tree.entries(inode, 0, 1000) if stat.S_ISDIR(mode)
    )


def test_an_image_may_be_any_buffer() -> None:
    image = _rich()
    for buffer in (image, memoryview(image), bytearray(image), memoryview(b"x" + image)[1:]):
        _ask_everything(Tree(buffer))  # type: ignore[arg-type]


def test_an_image_may_be_a_file() -> None:
    image = _rich()
    with tempfile.TemporaryFile() as file:
        file.write(image)
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            tree = Tree(memoryview(mapped))
            _ask_everything(tree)
            del tree


@pytest.mark.parametrize("image", [None, 5, "text"])
def test_should_fail_without_a_buffer(image: object) -> None:
    with pytest.raises(TypeError):
        Tree(image)  # type: ignore[arg-type]


def test_should_fail_at_a_cut_image() -> None:
    image = _rich()
    for length in range(len(image)):
        with pytest.raises(FormatError):
            Tree(image[:length])
    with pytest.raises(FormatError):
        Tree(image + bytes(8))


@pytest.mark.parametrize("image", [b"", bytes(32), b"CRFSTREE" + bytes(24), b"ELF" * 100])
def test_should_fail_at_what_is_no_image(image: bytes) -> None:
    with pytest.raises(FormatError):
        Tree(image)


def test_should_fail_at_another_version() -> None:
    image = bytearray(_rich())
    struct.pack_into("<I", image, 8, 1)
    with pytest.raises(FormatError, match="version"):
        Tree(bytes(image))


@pytest.mark.parametrize("off", [12, 16, 20])
@pytest.mark.parametrize("count", [0, 1, 2**31, 2**32 - 1])
def test_should_fail_at_another_count(off: int, count: int) -> None:
    image = bytearray(_rich())
    struct.pack_into("<I", image, off, count)
    with pytest.raises(FormatError):
        Tree(bytes(image))


@pytest.mark.parametrize("size", [0, 2**32, 2**63, 2**64 - 1, 2**64 - 8])
def test_should_fail_at_another_heap(size: int) -> None:
    image = bytearray(_rich())
    (heap,) = struct.unpack_from("<Q", image, 24)
    struct.pack_into("<Q", image, 24, size)
    with pytest.raises(FormatError):
        Tree(bytes(image))
    # and where there is no heap at all, which is what almost 2**64 bytes are once they are padded
    with pytest.raises(FormatError):
        Tree(bytes(image[: -(heap + 7 & ~7)]))


_DAMAGE = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from([1, 4, 8]),
    st.one_of(st.integers(0, 10), st.sampled_from([2**7, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1])),
)


@given(st.lists(_DAMAGE, min_size=1, max_size=4))
@settings(max_examples=400)
def test_a_damaged_image_is_refused_or_ends_somewhere(damage: list[tuple[int, int, int]]) -> None:
    image = bytearray(_rich())
    for at, width, value in damage:
        at = at % (len(image) // width) * width
        image[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    try:
        tree = Tree(bytes(image))
    except FormatError:
        return
    _ask_everything(tree)
    assert _walk_down(tree) <= tree.inodes


def test_flipped_bits_never_crash() -> None:
    image, source = _rich(), random.Random(7)
    for _ in range(2000):
        damaged = bytearray(image)
        for _ in range(source.choice([1, 1, 2, 5])):
            damaged[source.randrange(32, len(image))] ^= 1 << source.randrange(8)
        try:
            tree = Tree(bytes(damaged))
        except FormatError:
            continue
        _ask_everything(tree)
        assert _walk_down(tree) <= tree.inodes


def test_a_large_image_is_checked_in_no_time() -> None:
    index = LayerIndex()
    for i in range(100_000):
        index.add(b"%d/%d" % (i % 500, i), _REG, 0, 0, 10, 0, 0, b"", {b"user.x": b"1"})
        index.add_chunk(0, 10, i + 1, 0, None)
    index.seal(1 << 20)
    image = merge([index])
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        Tree(image)
        best = min(best, time.perf_counter() - started)
    # a fiftieth of a second on the slowest machine; about one millisecond where it was written
    assert best < 0.02


def test_sound_image_is_not_read_through() -> None:
    image = bytearray(_rich())
    # the parent of the last inode: found out only by who reads through the table
    assert Tree(image, sound=True).path(1) == b""  # type: ignore[arg-type]
    parent = 48 + Tree(_rich()).inodes * 56 - 20
    struct.pack_into("<I", image, parent, 2**31)
    with pytest.raises(FormatError, match="damaged"):
        Tree(image)  # type: ignore[arg-type]
    assert Tree(image, sound=True).has_xattrs  # type: ignore[arg-type]
