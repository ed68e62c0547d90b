"""Random layers, converted by the command in every format, opened as a mount opens them: the tree that there was.

Names are of any bytes, absolute, with `..` in them, reserved, or there several times; hard links may come first.
"""

import dataclasses
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crfs._native.index import Tree
from crfs._native.union import merge
from crfs.cli.main import main
from crfs.cli.services import Settings, open_services
from crfs.errors import FormatError
from crfs.formats.reference import parse_source
from crfs.formats.toc import RESERVED_NAMES
from crfs.layers.tarindex import index_tar
from tests.support.layers import Dir, Entry, File, Hardlink, Symlink, make_tar, trees
from tests.support.mounting import run_program
from tests.support.union_oracle import Seen, look_at
from tests.t3_layers.images import Image

CHUNK = 1024
_LAZY = [
    ["--format", "estargz"],
    ["--format", "estargz", "--min-chunk-size", "0"],
    ["--format", "estargz", "--min-chunk-size", "1000", "--prioritize", "*a*"],
    ["--format", "estargz", "--external-toc", "--keep-diff-id"],
    ["--format", "stargz"],
    ["--format", "zstd:chunked"],
    ["--format", "zstd:chunked", "--keep-diff-id"],
    ["--format", "zstd:chunked", "--dialect", "stargz", "--min-chunk-size", "700"],
]
WAYS = [
    *([*way, "--chunk-size", str(CHUNK)] for way in _LAZY),
    ["--format", "gzip"],
    ["--format", "zstd"],
    ["--format", "tar"],
]


# what is warned of depends on the layer and on the format
pytestmark = pytest.mark.usefixtures("caplog")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roundtrip")


@st.composite
def layers(draw: st.DrawFn) -> list[Entry]:
    """Trees as `trees` makes them, with what only a hostile or careless writer does."""
    entries = draw(trees(chunk_size=CHUNK, utf8=draw(st.booleans()), max_entries=8))
    prefix = draw(st.sampled_from(["", "", "./", "/", "../", "x/../../"]))
    more = draw(st.sets(st.sampled_from(["reserved", "twice", "link"])))
    found = [_renamed(entry, prefix + entry.name) for entry in entries]
    files = [entry for entry in found if isinstance(entry, File)]
    if "reserved" in more:
        name = draw(st.sampled_from(sorted(RESERVED_NAMES)))
        found.insert(
            0, draw(st.sampled_from([File(name, b"mine"), File(f"./{name}", b""), Dir(f"d/{name}")]))
        )
        # where it comes last, it is taken for a TOC
        found.append(File("last"))
    if files and "link" in more:
        found.insert(0, Hardlink("before", draw(st.sampled_from(files)).name))
    if files and "twice" in more:
        found += draw(replaced(draw(st.sampled_from(files)).name, prefix))
    return found


@st.composite
def replaced(draw: st.DrawFn, name: str, prefix: str) -> list[Entry]:
    """Links to what stands under `name`, and what takes the place of that, of a link, or of a link's link."""
    found: list[Entry] = []
    names = [name]
    for number in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            names.append(f"{prefix}again {number}")
            found.append(Hardlink(names[-1], draw(st.sampled_from(names[:-1]))))
        else:
            again = draw(st.sampled_from(names))
            # not so often a directory, for a layer with one keeps its order
            kind = draw(st.sampled_from("ffffffffffsssd"))
            others = {"f": File(again, b"once more" * 40 * number), "s": Symlink(again, "a"), "d": Dir(again)}
            found.append(others[kind])
    return found


def _renamed(entry: Entry, name: str) -> Entry:
    values = {slot: getattr(entry, slot) for slot in entry.__dataclass_fields__}
    return type(entry)(**{**values, "name": name})


Shown = tuple[dict[bytes, Seen], dict[bytes, bytes]]


def convert(source: Path | str, target: str, way: Sequence[str]) -> None:
    assert main(["convert", *way, str(source), target]) == 0


def see(tree: Tree, read: Callable[[bytes, Seen], bytes]) -> Shown:
    """All that a tree shows, but for where its bytes lie; and each file's bytes."""
    found = look_at(tree)
    contents = {
        path: read(path, seen) for path, seen in found.items() if stat.S_ISREG(seen.mode) and seen.size
    }
    return {path: dataclasses.replace(seen, pieces=()) for path, seen in found.items()}, contents


def see_tar(tar: Path) -> Shown:
    data = tar.read_bytes()

    def read(_: bytes, seen: Seen) -> bytes:
        content = bytearray(seen.size)
        for one in seen.pieces:
            content[one.file_off : one.file_off + one.size] = data[one.blob_off : one.blob_off + one.size]
        return bytes(content)

    return see(Tree(merge([index_tar(tar, "it")])), read)


def see_image(layout: str, cache: Path) -> Shown:
    """As a mount shows it, verified on the way."""
    settings = Settings(cache=cache, traces=False, allow_unverified=True)
    with Image(open_services(settings), settings, parse_source(layout)) as image:
        return see(image.tree, lambda path, _: image.read(path))


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from(WAYS))
def test_tree_is_what_it_was(scratch: Path, entries: list[Entry], way: list[str]) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    tar = scratch / "layer.tar"
    tar.write_bytes(make_tar(entries))
    try:
        before = see_tar(tar)
    except FormatError:
        # a link's target may end as a directory
        assume(False)
    convert(tar, f"oci:{scratch}/made:v1", way)
    assert see_image(f"oci:{scratch}/made:v1", scratch / "cache") == before
    # once more, from what was made to what is made of everything
    convert(f"oci:{scratch}/made:v1", f"oci:{scratch}/again:v1", ["--format", "estargz", "--rewrite"])
    assert see_image(f"oci:{scratch}/again:v1", scratch / "cache") == before


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_holes_and_records_are_kept(tmp_path: Path, way: list[str]) -> None:
    """A tar by GNU tar: sparse files, times below the second, long names and links, in each of its dialects."""
    tree = tmp_path / "tree"
    (tree / ("long" * 40)).mkdir(parents=True)
    name = "long" * 40 + "/" + "é" * 100
    (tree / name).write_bytes(b"x" * 3000)
    os.utime(tree / name, ns=(1, 1_700_000_000_123_456_789))
    (tree / "link").symlink_to(name)
    os.link(tree / name, tree / "hard")
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(300 << 10)
        file.write(b"in the middle")
    for number, dialect in enumerate((["--format=pax"], ["--format=gnu"], ["--format=pax", "--sparse"])):
        tar = tmp_path / f"{number}.tar"
        run_program("tar", "-C", tree, *dialect, "-cf", tar, ".")
        if "--keep-diff-id" in way and "--sparse" in dialect:
            continue
        convert(tar, f"oci:{tmp_path}/{number}:v1", way)
        assert see_image(f"oci:{tmp_path}/{number}:v1", tmp_path / "cache") == see_tar(tar)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_layer_without_entries(tmp_path: Path, way: list[str]) -> None:
    (tmp_path / "empty.tar").write_bytes(bytes(1024))
    convert(tmp_path / "empty.tar", f"oci:{tmp_path}/made:v1", way)
    assert list(see_image(f"oci:{tmp_path}/made:v1", tmp_path / "cache")[0]) == [b""]
