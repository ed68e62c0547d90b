"""Layers in which names stand several times, written in another order and made into one: the tree that they are.

What stands is judged by tar itself, and for what only a reader of images knows (links before their targets, whiteouts,
layers below) by the reader that is compared with a plain one in t3_layers.
"""

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from crfs._native.index import Tree
from crfs._native.union import merge
from crfs.convert.entries import TarEntry
from crfs.convert.flatten import Flat
from crfs.convert.landmarks import is_landmark
from crfs.convert.plain import tar_pieces
from crfs.convert.standing import Standing
from crfs.convert.wanted import Wanted, iter_wanted_first
from crfs.errors import FormatError
from crfs.layers.tarindex import index_tar
from tests.support.layers import Dir, Entry, File, Hardlink, Symlink, make_tar, opaque, to_tar_entry, whiteout
from tests.support.mounting import run_program
from tests.support.union_oracle import Seen, look_at

OLD, NEW = File("a", b"old"), File("a", b"new" * 300)
LINK = Hardlink("b", "a")
# what tar can put on disk by itself
TWICE: dict[str, list[Entry]] = {
    "by a file": [OLD, LINK, NEW],
    "without a link": [OLD, NEW],
    "two links": [OLD, LINK, Hardlink("c", "a"), NEW],
    "a link of a link": [OLD, LINK, Hardlink("c", "b"), NEW],
    "a link of a link that is gone": [OLD, LINK, Hardlink("c", "b"), File("b", b"b"), NEW],
    "a link to each": [OLD, LINK, NEW, Hardlink("c", "a")],
    "three times": [OLD, LINK, NEW, Hardlink("c", "a"), File("a")],
    "the link, not the file": [OLD, LINK, File("b", b"other")],
    "file and links": [OLD, LINK, NEW, File("b", b"other")],
    "by a symbolic link": [OLD, LINK, Symlink("a", "b")],
    "by a directory": [OLD, LINK, Dir("a"), File("a/a", b"below")],
    "by a link": [OLD, LINK, File("c", b"c"), Hardlink("a", "c")],
    "a symbolic link": [Symlink("a", "nowhere"), LINK, NEW],
    "a directory twice": [Dir("d", mode=0o700), File("d/a", b"x"), Dir("d", mode=0o755)],
    "below a directory": [Dir("d"), File("d/a", b"1"), Hardlink("d/b", "d/a"), File("d/a", b"2")],
    "a link in a directory to come": [OLD, Dir("d"), Hardlink("d/b", "a"), NEW],
    "spelt otherwise": [OLD, Hardlink("./b", "./a"), File("./a", b"new")],
}
GLOBS = [("*a*",), ("b", "c"), ("*",), ()]
Paths = dict[bytes, tuple[Seen, bytes]]


def opener(entries: list[Entry]) -> "contextlib.nullcontext[Iterable[TarEntry]]":
    return contextlib.nullcontext([to_tar_entry(entry) for entry in entries])


def stand(entries: list[Entry]) -> Standing:
    standing = Standing()
    for number, entry in enumerate(entries):
        standing.add(number, to_tar_entry(entry))
    standing.finish()
    return standing


def reordered(entries: list[Entry], globs: tuple[str, ...]) -> bytes:
    """The layer with what is wanted in front, as a tar."""
    ordered = iter_wanted_first(lambda: opener(entries), Wanted(globs=globs))
    return b"".join(tar_pieces(entry for entry in ordered if not is_landmark(entry)))


def flattened(layers: list[list[Entry]]) -> bytes:
    return b"".join(tar_pieces(Flat([partial(opener, layer) for layer in layers]).iter_entries()))


def extracted(tar: bytes, directory: Path) -> dict[str, tuple[int, bytes, list[str]]]:
    """What tar makes of it: of each name its mode, its bytes or target, and the names of the same file."""
    directory.mkdir()
    (directory / "it.tar").write_bytes(tar)
    tree = directory / "tree"
    tree.mkdir()
    run_program("tar", "-C", tree, "--delay-directory-restore", "-xf", directory / "it.tar")
    found = {str(path.relative_to(tree)): path for path in tree.rglob("*")}
    return {name: (*_look(path), _same(path, found)) for name, path in found.items()}


def _look(path: Path) -> tuple[int, bytes]:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path).encode()
    return mode, path.read_bytes() if stat.S_ISREG(mode) else b""


def _same(path: Path, found: dict[str, Path]) -> list[str]:
    number = path.lstat().st_ino
    return sorted(name for name, other in found.items() if other.lstat().st_ino == number)


def merged(tars: list[bytes], scratch: Path) -> Paths:
    """What a mount of these layers shows, but for where its bytes lie."""
    paths = [scratch / str(number) for number in range(len(tars))]
    for path, tar in zip(paths, tars, strict=True):
        path.write_bytes(tar)
    tree = Tree(merge([index_tar(path, path.name) for path in paths]))
    found = {}
    for name, seen in look_at(tree).items():
        content = bytearray(seen.size if stat.S_ISREG(seen.mode) else 0)
        for piece in seen.pieces:
            place = tars[piece.layer][piece.blob_off : piece.blob_off + piece.size]
            content[piece.file_off : piece.file_off + piece.size] = place
        found[name] = (dataclasses.replace(seen, pieces=()), bytes(content))
    return found


@pytest.mark.parametrize("globs", GLOBS, ids=str)
@pytest.mark.parametrize("case", TWICE)
@pytest.mark.usefixtures("caplog")
def test_tar_extracts_the_same_in_another_order(tmp_path: Path, case: str, globs: tuple[str, ...]) -> None:
    before = extracted(make_tar(TWICE[case]), tmp_path / "before")
    assert extracted(reordered(TWICE[case], globs), tmp_path / "after") == before


@pytest.mark.parametrize("case", TWICE)
def test_tar_extracts_the_same_of_one_layer_made_of_one(tmp_path: Path, case: str) -> None:
    before = extracted(make_tar(TWICE[case]), tmp_path / "before")
    assert extracted(flattened([TWICE[case]]), tmp_path / "after") == before


@pytest.mark.parametrize("case", TWICE)
def test_what_stands_has_each_name_once(case: str) -> None:
    """So that readers who look for a link's target by its name find the right one."""
    standing = stand(TWICE[case])
    written = [standing.written(number, to_tar_entry(entry)) for number, entry in enumerate(TWICE[case])]
    names = [entry.name for entry in written if entry is not None]
    assert len(names) == len(set(names))
    assert {entry.info.linkname for entry in written if entry and entry.info.islnk()} <= set(names)


def test_first_link_becomes_the_file_that_was_replaced() -> None:
    order = iter_wanted_first(lambda: opener([OLD, LINK, Hardlink("c", "b"), NEW]), Wanted(("c",)))
    assert [(entry.name, entry.info.size, entry.info.linkname) for entry in order] == [
        ("b", 3, ""),
        ("c", 0, "b"),
        (".prefetch.landmark", 1, ""),
        ("a", 900, ""),
    ]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([OLD, LINK, Dir("a")], "'a' is first something else and then a directory"),
        ([OLD, LINK, File("a/x")], "'a' is first something else and then a directory"),
        ([Symlink("l", "d"), File("l/a")], "'l/a' leads through the symbolic link 'l'"),
        ([Hardlink("b", "below")], "'b' is a hard link to 'below', which the layer lacks"),
        ([File("d/a"), whiteout("d")], "'d' is hidden in the layers below, and has no entry of its own"),
        ([Symlink("l", "d"), whiteout("l/a")], "'l/.wh.a' is below what is no directory"),
    ],
)
def test_layer_that_must_keep_its_order_does(
    entries: list[Entry], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    order = list(iter_wanted_first(lambda: opener(entries), Wanted(globs=("*",)), "layer 1"))
    assert [entry.name for entry in order] == [".no.prefetch.landmark", *(entry.name for entry in entries)]
    assert caplog.messages == [f"layer 1: none of its files comes first: {why}"]


def test_layer_without_wanted_files_is_not_warned_of() -> None:
    assert len(list(iter_wanted_first(lambda: opener([LINK]), Wanted(("x",))))) == 2


# random layers over few names, so that they meet

FILES = ["a", "b", "c", "d/a", "d/b", "d/c/a", "e/a"]
DIRECTORIES = ["d", "d/c", "e"]


def _files(name: str) -> st.SearchStrategy[Entry]:
    return st.one_of(
        st.binary(max_size=3).map(lambda data: File(name, data)),
        st.sampled_from(FILES).map(lambda target: Hardlink(name, target)),
        st.sampled_from(["d", "e", "../a"]).map(lambda target: Symlink(name, target)),
        st.just(whiteout(name)),
    )


def _directories(name: str) -> st.SearchStrategy[Entry]:
    modes = st.sampled_from([0o700, 0o755])
    return st.one_of(modes.map(lambda mode: Dir(name, mode=mode)), st.just(opaque(name)))


TIDY = st.sampled_from(FILES).flatmap(_files) | st.sampled_from(DIRECTORIES).flatmap(_directories)
UNTIDY = st.sampled_from(FILES).flatmap(_directories) | st.sampled_from(DIRECTORIES).flatmap(_files)
TIDY_LAYERS = st.lists(TIDY, max_size=9)
LAYERS = TIDY_LAYERS | st.lists(TIDY | UNTIDY, max_size=7)


@settings(max_examples=300, deadline=None)
@given(TIDY_LAYERS, LAYERS, st.lists(st.sampled_from(["*a*", "b", "d*", "*"]), max_size=2).map(tuple))
@example([], [OLD, LINK, File("last"), NEW], ("*a*",))
@pytest.mark.usefixtures("caplog")
def test_any_layer_over_any_other(
    tmp_path_factory: pytest.TempPathFactory, lower: list[Entry], upper: list[Entry], globs: tuple[str, ...]
) -> None:
    scratch = tmp_path_factory.getbasetemp()
    below = make_tar(lower)
    try:
        before = merged([below, make_tar(upper)], scratch)
    except FormatError:
        assume(False)
    assert merged([below, reordered(upper, globs)], scratch) == before


@settings(max_examples=200, deadline=None)
@given(st.lists(LAYERS, min_size=2, max_size=4))
@example([[], [OLD, LINK, NEW]])
@example([[OLD, LINK, NEW], [File("a", b"newest")]])
@example([[OLD], [Hardlink("b", "a"), whiteout("a")]])
@example([[OLD], [Hardlink("b", "a"), NEW]])
@example([[Dir("d"), Symlink("l", "d")], [File("l/a", b"x")]])
@example([[Symlink("l", "d")], [File("l/a", b"x"), Hardlink("b", "l/a")], [whiteout("l")]])
@example([[File("d/a")], [whiteout("d/a")]])
def test_any_layers_made_into_one(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[Entry]]
) -> None:
    scratch = tmp_path_factory.getbasetemp()
    try:
        before = merged([make_tar(layer) for layer in layers], scratch)
    except FormatError:
        assume(False)
    assert merged([flattened(layers)], scratch) == before
