"""TOCs from bytes to entries: the one-file tar, the JSON, and what is malformed in either."""

import contextlib
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import FormatError
from crfs.formats.toc import LANDMARKS, RESERVED_NAMES, TOC_NAME, TocEntry, iter_toc, unpack_toc

EMPTY = b'{"version":1,"entries":[]}'


def pack(name: str, data: bytes, size: int | None = None) -> bytes:
    """A tar with one file in it."""
    info = tarfile.TarInfo(name)
    info.size = len(data) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)


def encode(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"version": 1, "entries": entries, **more}).encode()


def read(toc: bytes) -> list[TocEntry]:
    return list(iter_toc(toc))


@pytest.mark.parametrize("data", [EMPTY, b"", b"x" * 511, b"x" * 512, b"x" * 513])
def test_unpack(data: bytes) -> None:
    assert unpack_toc(pack(TOC_NAME, data)) == data


def test_unpack_needs_no_padding() -> None:
    assert unpack_toc(pack(TOC_NAME, EMPTY)[: 512 + len(EMPTY)]) == EMPTY


@pytest.mark.parametrize(
    "tar",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(EMPTY, id="no-tar"),
        pytest.param(bytes(10_240), id="zeros"),
        pytest.param(pack("stargz.index.jsom", EMPTY), id="another-name"),
        pytest.param(pack("./" + TOC_NAME, EMPTY), id="dotted-name"),
        pytest.param(pack(TOC_NAME, EMPTY)[: 512 + len(EMPTY) - 1], id="cut"),
        pytest.param(pack(TOC_NAME, EMPTY)[:300], id="cut-header"),
        pytest.param(pack(TOC_NAME, EMPTY, size=8**11 - 1), id="giant"),
    ],
)
def test_should_fail_unpack_anything_else(tar: bytes) -> None:
    with pytest.raises(FormatError, match=r"does not hold a whole stargz\.index\.json$"):
        unpack_toc(tar)


@pytest.mark.parametrize("field", [b"0000000008\0 ", b"\x80" + bytes(11), b"size\0"])
def test_should_fail_unpack_a_header_without_a_size(field: bytes) -> None:
    tar = pack(TOC_NAME, EMPTY)
    with pytest.raises(FormatError, match="holds no size"):
        unpack_toc(tar[:124] + field.ljust(12, b"\0") + tar[136:])


@given(st.binary(max_size=2000))
def test_unpack_survives_any_bytes(data: bytes) -> None:
    for tar in (data, pack(TOC_NAME, EMPTY)[:100] + data):
        with contextlib.suppress(FormatError):
            assert len(unpack_toc(tar)) <= len(tar)


def test_all_keys() -> None:
    document = {
        "name": "f",
        "type": "reg",
        "size": 5,
        "modtime": "2024-01-02T03:04:05Z",
        "linkName": "l",
        "mode": 33188,
        "uid": 1,
        "gid": 2,
        "offset": 3,
        "devMajor": 4,
        "devMinor": 5,
        "xattrs": {"user.a": "AP8="},
        "digest": "sha256:x",
        "chunkOffset": 6,
        "chunkSize": 7,
        "chunkDigest": "sha256:y",
        "innerOffset": 8,
        "chunkType": "zeros",
        "userName": "nobody needs it",
        "NumLink": 9,
        "future": {"nested": [1, 2]},
    }
    (entry,) = read(encode(document))
    known = {name: getattr(entry, name) for name in TocEntry.__struct_fields__}
    assert known == {
        "name": "f",
        "type": "reg",
        "size": 5,
        "modtime": "2024-01-02T03:04:05Z",
        "link_name": "l",
        "mode": 33188,
        "uid": 1,
        "gid": 2,
        "offset": 3,
        "dev_major": 4,
        "dev_minor": 5,
        "xattrs": {"user.a": b"\0\xff"},
        "digest": "sha256:x",
        "chunk_offset": 6,
        "chunk_size": 7,
        "chunk_digest": "sha256:y",
        "inner_offset": 8,
        "chunk_type": "zeros",
    }


def test_absent_keys_are_zero() -> None:
    assert read(encode({"name": "", "type": "dir"})) == [TocEntry("", "dir")]
    assert TocEntry("", "dir").xattrs is None


def test_keys_are_told_apart_by_case() -> None:
    (entry,) = read(encode({"name": "a", "type": "reg", "Size": 5, "linkname": "x"}))
    assert (entry.size, entry.link_name) == (0, "")


def test_order_and_duplicates_are_kept() -> None:
    entries = [{"name": name, "type": "dir"} for name in ("b", "a", "b")]
    assert [entry.name for entry in read(encode(*entries))] == ["b", "a", "b"]


@pytest.mark.parametrize("text", ['"\\u00e9\\ud83d\\ude00\\\\\\""', '"é😀\\\\\\""'])
def test_names_escaped_or_not(text: str) -> None:
    document = f'{{"version":1,"entries":[{{"name":{text},"type":"dir"}}]}}'
    assert read(document.encode())[0].name == 'é😀\\"'


def test_white_space_and_more_keys() -> None:
    document = b' {\n "future": [{}], "entries" : [ {"type":"dir" , "name":"a"} ] ,\t"version" : 1 } \n'
    assert read(document) == [TocEntry("a", "dir")]


def test_entries_come_one_at_a_time() -> None:
    """So that half a million of them are never decoded at once."""
    entries: Iterator[TocEntry] = iter_toc(encode({"name": "a", "type": "dir"}, {"name": 5}))
    assert next(entries).name == "a"
    with pytest.raises(FormatError):
        next(entries)


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_should_fail_another_version(version: int) -> None:
    with pytest.raises(FormatError, match=f"version {version}, not 1"):
        read(encode(version=version))


@pytest.mark.parametrize(
    "toc",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'"toc"',
        b'{"version":1}',
        b'{"entries":[]}',
        b'{"version":"1","entries":[]}',
        b'{"version":1.5,"entries":[]}',
        b'{"version":1,"entries":{}}',
        b'{"version":1,"entries":null}',
        b'{"version":1,"entries":[]}}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"}',
        b'{"version":1,"entries":[{"name":"a","type":"dir"},]}',
        b'{"version":1,"entries":[1]}',
        b'{"version":1,"entries":[null]}',
        b'{"version":1,"entries":[{"type":"dir"}]}',
        b'{"version":1,"entries":[{"name":"a"}]}',
        b'{"version":1,"entries":[{"name":"\\ud800","type":"dir"}]}',
        b'{"version":1,"entries":[{"name":"a\nb","type":"dir"}]}',
        b"\x1f\x8b" + bytes(100),
        pytest.param(b'{"version":1,"entries":[{"name":"\xff","type":"dir"}]}', id="latin-1"),
        pytest.param(b'{"version":1,"entries":' + b"[" * 100_000, id="deep"),
    ],
)
def test_should_fail_what_is_no_toc(toc: bytes) -> None:
    with pytest.raises(FormatError, match=r"^the TOC is malformed: "):
        read(toc)


@pytest.mark.parametrize(
    "key", [field for field in TocEntry.__struct_fields__ if field not in ("name", "type")]
)
@pytest.mark.parametrize("value", [None, [], 1.5, True, {"a": 1}])
def test_should_fail_values_of_another_type(key: str, value: object) -> None:
    name = msgspec.structs.fields(TocEntry)[TocEntry.__struct_fields__.index(key)].encode_name
    toc = encode({"name": "a", "type": "reg", name: value})
    if key == "xattrs" and value is None:
        assert read(toc)[0].xattrs is None
        return
    with pytest.raises(FormatError, match="malformed"):
        read(toc)


@pytest.mark.parametrize("value", ["YQ", "Y Q==", "Y===", "%%%%"])
def test_should_fail_attributes_that_are_not_base64(value: str) -> None:
    with pytest.raises(FormatError, match="malformed"):
        read(encode({"name": "a", "type": "reg", "xattrs": {"user.a": value}}))


def test_reserved_names() -> None:
    assert {*LANDMARKS, TOC_NAME} == RESERVED_NAMES
