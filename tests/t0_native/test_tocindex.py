"""The kernel that indexes TOCs, against its plain-Python twin and by example."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.tocindex import LossyTocError, fill_index
from crfs._native.union import merge
from crfs.errors import FormatError
from crfs.formats.toc import RESERVED_NAMES, iter_toc
from tests.support.toc_oracle import index_toc
from tests.support.union_oracle import Seen, look_at

TOC_OFF = 10_000
SHA = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
OTHER_SHA = f"sha256:{hashlib.sha256(b'y').hexdigest()}"
Json = dict[str, Any]


def encode(entries: list[Json]) -> bytes:
    return json.dumps({"version": 1, "entries": entries}).encode()


def read(toc: bytes) -> LayerIndex:
    found = LayerIndex()
    fill_index(found, toc, iter_toc, RESERVED_NAMES)
    found.seal(TOC_OFF)
    return found


def index(*entries: Json) -> LayerIndex:
    return read(encode(list(entries)))


def tree(*entries: Json) -> Tree:
    return Tree(merge([index(*entries)]))


def file(name: str, size: int, **more: Any) -> Json:
    return {"name": name, "type": "reg", "size": size, "offset": 100, **more}


def chunk(off: int, **more: Any) -> Json:
    return {"name": "f", "type": "chunk", "offset": 200, "chunkOffset": off, **more}


def names(tree: Tree) -> list[bytes]:
    return [name for name, _, _ in tree.entries(1, 0, 100)]


def chunks(tree: Tree, path: bytes = b"f") -> list[tuple[int, int, int, int, bytes | None]]:
    """(file offset, size, blob offset, inner offset, digest) of all chunks of a file."""
    inode = tree.find(1, path)
    size = tree.attributes(inode).size
    found = [tree.chunk(number) for number, _, _ in tree.cover(inode, 0, size)]
    return [(at.file_off, at.size, at.blob_off, at.inner_off, at.digest) for at in found]


# --- against the oracle

_PATHS = st.sampled_from(["a", "b", "d", "d/a", "d/b", "./e", "/e/f/", "d//c", "d/../g", "x/" * 5 + "y"])
_HIDDEN = st.sampled_from([*RESERVED_NAMES, "./.prefetch.landmark", "d/.prefetch.landmark"])
_MARKS = st.sampled_from([".wh.a", "d/.wh.b", "d/.wh..wh..opq", ".wh..wh.plnk", "x" * 251 + "/.wh.q"])
_TIMES = st.sampled_from(["", "2024-01-02T03:04:05Z", "1969-12-31T23:59:59.5+01:00", "0001-01-01T00:00:00Z"])
_NUMBERS = st.sampled_from([0, 1, 1000, 2**32 - 1])
_ODD = st.one_of(
    st.sampled_from([-1, 0, 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, "", "x", "a", "chunk", "hardlink"]),
    st.sampled_from(
        ["zeros", "md5:00", SHA, SHA.upper(), SHA[:-1], "sha256:" + "g" * 64, "2024-01-02T03:04:05"]
    ),
    st.sampled_from(["x" * 300, "x\0y", "..", "/", ".wh.", {"user.a": "YQ=="}, {"": "YQ=="}, {"a\0": ""}]),
    st.integers(-5, 3000),
)
_BYTES = st.sampled_from(b'"{}[]:,\\ \n\0-.e019aZ/\x7f\x80\xff')
_KEYS = st.sampled_from(
    [
        *(
            "name",
            "type",
            "size",
            "modtime",
            "linkName",
            "mode",
            "uid",
            "gid",
            "offset",
            "devMajor",
            "devMinor",
        ),
        *("xattrs", "digest", "chunkOffset", "chunkSize", "chunkDigest", "innerOffset", "chunkType"),
    ]
)


def _attributes() -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(
        {},
        optional={
            "mode": st.sampled_from([0, 0o644, 0o100755, 0o7777, -1]),
            "uid": _NUMBERS,
            "gid": _NUMBERS,
            "userName": st.just("root"),
            "NumLink": st.just(3),
            "modtime": _TIMES,
            "xattrs": st.dictionaries(st.sampled_from(["user.a", "user.é"]), st.sampled_from(["", "AP8="])),
        },
    )


def _others() -> st.SearchStrategy[Json]:
    devices = st.sampled_from(["char", "block"])
    kinds = st.one_of(
        st.fixed_dictionaries({"name": _PATHS | _HIDDEN, "type": st.sampled_from(["dir", "fifo"])}),
        st.fixed_dictionaries({"name": _MARKS, "type": st.just("reg")}),
        st.fixed_dictionaries({"name": _PATHS, "type": st.just("symlink"), "linkName": _PATHS}),
        st.fixed_dictionaries({"name": _PATHS, "type": st.just("hardlink"), "linkName": _PATHS}),
        st.fixed_dictionaries(
            {
                "name": _PATHS,
                "type": devices,
                "devMajor": st.integers(0, 4095),
                "devMinor": st.integers(0, 255),
            }
        ),
    )
    return st.builds(lambda entry, more: {**more, **entry}, kinds, _attributes())


@st.composite
def _files(draw: st.DrawFn) -> list[Json]:
    """A file and its chunks."""
    entry: Json = {"name": draw(_PATHS | _HIDDEN), "type": "reg", **draw(_attributes())}
    lengths = draw(st.lists(st.integers(1, 1000), max_size=3))
    entries = [entry, *({"name": draw(_PATHS), "type": "chunk"} for _ in lengths[1:])]
    place = 0
    for number, (part, length) in enumerate(zip(entries, lengths, strict=False)):
        part |= {"offset": draw(st.integers(1, 2000)), "innerOffset": draw(st.sampled_from([0, 0, 512]))}
        part["chunkOffset"] = place
        last = number == len(lengths) - 1
        part["chunkSize"] = 0 if last and draw(st.booleans()) else length
        if draw(st.integers(0, 4)) == 0:
            part |= {"chunkType": "zeros", "offset": draw(st.sampled_from([0, 100]))}
        if draw(st.booleans()):
            part["chunkDigest"] = draw(st.sampled_from([SHA, OTHER_SHA]))
        place += length
    entry["size"] = place
    if draw(st.booleans()):
        entry["digest"] = OTHER_SHA
    return entries


@st.composite
def tocs(draw: st.DrawFn) -> list[Json]:
    """Mostly valid; some have a few entries changed, dropped, doubled or moved."""
    groups = draw(st.lists(st.one_of(_files(), _others().map(lambda entry: [entry])), max_size=8))
    entries = [dict(entry) for entry in itertools.chain(*groups)]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])) if entries else 0):
        at = draw(st.integers(0, len(entries) - 1))
        match draw(st.sampled_from(["change", "change", "drop", "double", "move"])):
            case "change":
                entries[at][draw(_KEYS)] = draw(_ODD)
            case "drop":
                entries.pop(at)
            case "double":
                entries.insert(draw(st.integers(0, len(entries))), dict(entries[at]))
            case _:
                entries.insert(draw(st.integers(0, len(entries) - 1)), entries.pop(at))
        if not entries:
            break
    return entries


def _outcome(build: Callable[[], LayerIndex]) -> dict[bytes, Seen] | str:
    """Everything that can be seen of an index, or why there is nothing to see."""
    try:
        found = build()
    except FormatError:
        # where several rules are broken, each may name another one
        return "no index"
    try:
        return look_at(Tree(merge([found])))
    except FormatError as error:
        return str(error)


@settings(max_examples=400, deadline=None)
@given(entries=tocs())
@example(entries=[{"name": ".prefetch.landmark", "type": "reg", "size": -1}, chunk(0), chunk(-5)])
def test_kernel_and_oracle_agree(entries: list[Json]) -> None:
    """Also: whatever a TOC says, the answer is an index or a FormatError."""
    kernel = _outcome(lambda: index(*entries))
    assert kernel == _outcome(lambda: index_toc(encode(entries), TOC_OFF))


def _escaped(entries: list[Json]) -> bytes:
    """Every letter of a string as a number."""
    text = json.dumps({"version": 1, "entries": entries}, ensure_ascii=False)
    words = iter(re.split(r'("(?:[^"\\]|\\.)*")', text))
    return "".join(word if word[:1] != '"' else _as_numbers(word) for word in words).encode()


def _as_numbers(word: str) -> str:
    raw = str(json.loads(word)).encode("utf-16-be")
    return '"' + "".join(f"\\u{raw[at]:02x}{raw[at + 1]:02x}" for at in range(0, len(raw), 2)) + '"'


WRITERS: dict[str, Callable[[list[Json]], bytes]] = {
    "compact": lambda entries: json.dumps({"version": 1, "entries": entries}, separators=(",", ":")).encode(),
    "indented": lambda entries: (
        json.dumps({"version": 1, "entries": entries}, indent="\t").encode() + b"\r\n "
    ),
    "UTF-8": lambda entries: json.dumps({"version": 1, "entries": entries}, ensure_ascii=False).encode(),
    "escaped": _escaped,
    "another order": lambda entries: json.dumps({"entries": entries, "version": 1}).encode(),
    "more": lambda entries: json.dumps({"version": 1, "entries": entries, "more": [{}]}).encode(),
    "more in entries": lambda entries: encode([{"more": {"a": ['"}\\', 1.5]}, **entry} for entry in entries]),
}


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=60, deadline=None)
@given(entries=tocs())
def test_it_does_not_matter_how_a_toc_is_written(writer: str, entries: list[Json]) -> None:
    assert _outcome(lambda: read(WRITERS[writer](entries))) == _outcome(lambda: index(*entries))


@settings(max_examples=300, deadline=None)
@given(entries=tocs(), data=st.data())
def test_damaged_json_is_to_the_kernel_what_it_is_to_the_oracle(
    entries: list[Json], data: st.DataObject
) -> None:
    toc = bytearray(WRITERS["compact"](entries))
    at = data.draw(st.integers(0, len(toc) - 1))
    match data.draw(st.sampled_from(["change", "cut", "drop", "add"])):
        case "change":
            toc[at] = data.draw(_BYTES)
        case "cut":
            del toc[at:]
        case "drop":
            del toc[at]
        case _:
            toc.insert(at, data.draw(_BYTES))
    damaged = bytes(toc)
    assert _outcome(lambda: read(damaged)) == _outcome(lambda: index_toc(damaged, TOC_OFF))


def test_nothing_stays_of_a_toc_that_turns_out_to_be_written_otherwise() -> None:
    toc = json.dumps({"version": 1, "entries": [file("f", 9), {"name": ".wh.x", "type": "reg"}], "more": 1})
    assert read(toc.encode()).counts == (2, 1)


@settings(max_examples=60, deadline=None)
@given(entries=tocs(), more=st.lists(st.sampled_from(["\ufffd", "a\ufffdb"]), min_size=1, max_size=2))
def test_lost_names_are_lost_to_both(entries: list[Json], more: list[str]) -> None:
    entries = [{"name": name, "type": "dir"} for name in more] + entries
    with pytest.raises(LossyTocError):
        index(*entries)
    with pytest.raises(FormatError):
        index_toc(encode(entries), TOC_OFF)


# --- by example


def test_empty_toc() -> None:
    assert index().counts == (0, 0)


def test_attributes_of_all_types() -> None:
    common = {"mode": 0o106751, "uid": 7, "gid": 2**32 - 1, "modtime": "2024-01-02T03:04:05.000000001Z"}
    found = tree(
        {"name": "", "type": "dir", **common},
        {"name": "d/", "type": "dir", **common},
        {"name": "f", "type": "reg", "size": 0, **common},
        {"name": "l", "type": "symlink", "linkName": "./../x/", **common},
        {"name": "c", "type": "char", "devMajor": 5, "devMinor": 300, **common},
        {"name": "b", "type": "block", "devMajor": 8, "devMinor": 1, **common},
        {"name": "p", "type": "fifo", "devMajor": 9, **common},
        {"name": "h", "type": "hardlink", "linkName": "./f"},
    )
    kinds = {b"d": 0o040000, b"f": 0o100000, b"l": 0o120000, b"c": 0o020000, b"b": 0o060000, b"p": 0o010000}
    for name, kind in kinds.items():
        at = tree_attributes = found.attributes(found.find(1, name))
        assert (at.mode, at.uid, at.gid) == (kind | 0o6751, 7, 2**32 - 1)
        assert tree_attributes.mtime_ns == 1_704_164_645_000_000_001
    assert found.attributes(1).mode == 0o046751
    assert found.readlink(found.find(1, b"l")) == b"./../x/"
    assert found.attributes(found.find(1, b"c")).rdev == 5 << 8 | 300 & 0xFF | (300 & ~0xFF) << 12
    assert found.attributes(found.find(1, b"p")).rdev == 0
    assert found.find(1, b"h") == found.find(1, b"f")
    assert found.attributes(found.find(1, b"f")).nlink == 2


def test_xattrs_are_raw() -> None:
    found = tree(file("f", 0, offset=0, xattrs={"user.a": "AP8K", "user.empty": "", "user.é": "eA=="}))
    values = found.xattrs(found.find(1, b"f"))
    assert values == {b"user.a": b"\0\xff\n", b"user.empty": b"", "user.é".encode(): b"x"}


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ({"digest": SHA}, SHA),
        ({"digest": SHA, "chunkDigest": OTHER_SHA}, OTHER_SHA),
        ({"digest": SHA, "chunkSize": 9}, SHA),
        ({}, None),
    ],
)
def test_digest_of_an_only_chunk(more: Json, digest: str | None) -> None:
    expected = None if digest is None else bytes.fromhex(digest[7:])
    assert chunks(tree(file("f", 9, **more))) == [(0, 9, 100, 0, expected)]


def test_digest_of_a_file_fits_none_of_its_chunks() -> None:
    found = tree(file("f", 9, chunkSize=5, digest=SHA), chunk(5, chunkDigest=OTHER_SHA, innerOffset=7))
    assert chunks(found) == [(0, 5, 100, 0, None), (5, 4, 200, 7, bytes.fromhex(OTHER_SHA[7:]))]


def test_zeros_take_no_bytes_of_the_blob() -> None:
    found = tree(
        file("f", 9, offset=0, chunkSize=2, chunkType="zeros"),
        chunk(2, chunkSize=3),
        chunk(5, chunkType="zeros"),
    )
    inode = found.find(1, b"f")
    assert [(number < 0, start, end) for number, start, end in found.cover(inode, 0, 9)] == [
        (True, 0, 2),
        (False, 0, 3),
        (True, 0, 4),
    ]


def test_chunks_belong_to_the_last_file_whatever_their_name() -> None:
    stranger = {**chunk(5), "name": "somebody/else"}
    found = tree(file("f", 9, chunkSize=5), stranger, file("g", 3, offset=300))
    assert [at[:3] for at in chunks(found)] == [(0, 5, 100), (5, 4, 200)]
    assert [at[:3] for at in chunks(found, b"g")] == [(0, 3, 300)]


def test_last_of_two_files_with_one_name_counts() -> None:
    found = tree(file("f", 9, chunkSize=5), chunk(5), file("f", 3, offset=300))
    assert [at[:3] for at in chunks(found)] == [(0, 3, 300)]


def test_reserved_names_are_hidden_at_the_root_only() -> None:
    hidden = [file(name, 9, chunkSize=5) for name in (".prefetch.landmark", "./stargz.index.json")]
    entries = [part for entry in hidden for part in (entry, chunk(5))]
    found = tree(*entries, {"name": "/.no.prefetch.landmark", "type": "reg"}, file("d/.prefetch.landmark", 1))
    assert names(found) == [b"d"]
    assert [name for name, _, _ in found.entries(found.find(1, b"d"), 0, 9)] == [b".prefetch.landmark"]


def test_rules_do_not_hold_for_what_is_hidden() -> None:
    """The landmark of some builders has no digest, offset or chunk that would make sense."""
    assert names(tree({"name": ".prefetch.landmark", "type": "reg", "size": 1}, file("f", 1))) == [b"f"]


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a\ufffd", "type": "dir"},
        {"name": "d/\ufffd/a", "type": "reg"},
        {"name": "a", "type": "symlink", "linkName": "\ufffd"},
        {"name": "a", "type": "hardlink", "linkName": "\ufffd"},
    ],
)
def test_should_fail_names_that_were_lost(entry: Json) -> None:
    with pytest.raises(LossyTocError, match="not UTF-8"):
        index(entry)


def test_lost_names_of_users_do_not_matter() -> None:
    assert names(tree({"name": "a", "type": "dir", "userName": "\ufffd"})) == [b"a"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([chunk(0)], "chunk of 'f' before any file"),
        ([file("f", 9), {"name": "d", "type": "dir"}, chunk(5)], "before any file"),
        ([{"name": "h", "type": "hardlink", "linkName": "f"}, chunk(5)], "before any file"),
        ([file("f", 9, offset=0)], "'f' a size but no offset"),
        ([file("f", 9, chunkSize=5), chunk(5, offset=0)], "'f' a size but no offset"),
        ([file("f", 9, offset=-1)], "'f' an impossible place"),
        ([file("f", 9, innerOffset=-1)], "'f' an impossible place"),
        ([file("f", 9, offset=2**64)], "'f' an impossible place"),
        ([file("f", 9, offset=2**63)], "offset is impossible"),
        ([file("f", 9, chunkSize=-3)], "'f' an impossible place"),
        ([file("f", 9, chunkSize=10)], "outside of the file"),
        ([file("f", 9, chunkSize=5), chunk(5, chunkSize=5)], "outside of the file"),
        ([file("f", 9, chunkSize=5), chunk(4)], "overlaps"),
        ([file("f", 9), chunk(9)], "outside of the file"),
        ([file("f", 9, chunkOffset=1)], "no chunk for the bytes of 'f' from 0 on"),
        ([file("f", 9, chunkSize=5), chunk(6)], "no chunk for the bytes of 'f' from 5 on"),
        ([file("f", 9, chunkSize=5)], "chunks for 5 of the 9 bytes of 'f'"),
        ([file("f", 9, chunkSize=5), file("g", 1)], "chunks for 5 of the 9 bytes of 'f'"),
        ([file("f", 9, chunkSize=3), chunk(3, chunkSize=3)], "chunks for 6 of the 9 bytes of 'f'"),
        ([file("f", 9, chunkSize=5, chunkType="ones"), chunk(5)], "'f' the unknown type 'ones'"),
        ([file("f", 9, chunkSize=5, chunkType="zeros"), chunk(4)], "overlaps"),
        ([file("f", 9, chunkSize=10, chunkType="zeros")], "outside of the file"),
        ([file("f", 9, chunkSize=-1, chunkType="zeros")], "outside of the file"),
        ([file("f", -1)], "'f' an impossible number"),
        ([file("f", 2**64)], "'f' an impossible number"),
        ([file("f", 2**62 + 1)], "impossible size"),
        ([file("f", 9, uid=-1)], "'f' an impossible number"),
        ([file("f", 9, gid=2**32)], "'f' an impossible number"),
        ([file("f", 9, digest="sha512:" + "0" * 128)], "no SHA-256"),
        ([file("f", 9, chunkDigest="sha256:" + "x" * 64)], "no SHA-256"),
        ([file("f", 9, chunkDigest="0" * 64)], "no SHA-256"),
        ([file("f", 9, modtime="yesterday")], "'yesterday' is no time"),
        ([file("f", TOC_OFF, offset=TOC_OFF)], "behind the layer's data"),
        ([{"name": "s", "type": "socket"}], "'s' the unknown type 'socket'"),
        ([{"name": "s", "type": ""}], "'s' the unknown type ''"),
        ([{"name": "l", "type": "symlink"}], "symbolic link"),
        ([{"name": "l", "type": "symlink", "linkName": "x" * 4096}], "symbolic link"),
        ([{"name": "", "type": "hardlink", "linkName": "f"}], "root is a hard link"),
        ([{"name": "..", "type": "symlink", "linkName": "f"}], "root is not a directory"),
        ([{"name": "x" * 256, "type": "dir"}], "no file can have"),
        ([{"name": "a/b\0", "type": "dir"}], "no file can have"),
        ([{"name": "a/" * 2049, "type": "dir"}], "nested 2049 levels deep"),
        ([{"name": "c", "type": "char", "devMajor": 2**32}], "'c' an impossible"),
        ([{"name": "c", "type": "block", "devMinor": -1}], "'c' an impossible"),
        ([{"name": "x", "type": "dir", "xattrs": {"": "YQ=="}}], "extended attribute"),
        ([{"name": "x", "type": "dir", "xattrs": {"user." + "a" * 251: "YQ=="}}], "extended attribute"),
    ],
)
def test_should_fail_a_toc_that_lies(entries: list[Json], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        index(*entries)
    with pytest.raises(FormatError):
        index_toc(encode(entries), TOC_OFF)
