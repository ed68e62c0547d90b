"""Paths, times and the records of one layer."""

import stat
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex, clean_path, parse_time
from crfs._native.union import merge
from crfs.errors import FormatError
from tests.support.union_oracle import clean

_REG = stat.S_IFREG | 0o644
_DIR = stat.S_IFDIR | 0o755
_LNK = stat.S_IFLNK | 0o777
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _add(
    index: LayerIndex,
    path: bytes = b"a",
    mode: int = _REG,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> None:
    index.add(path, mode, 0, 0, size, 0, 0, link, xattrs)


def _file(size: int) -> LayerIndex:
    index = LayerIndex()
    _add(index, size=size)
    return index


# paths

_PARTS = st.one_of(
    st.sampled_from([b"", b".", b"..", b"a", b"..a", b"a.", b"...", b".wh.x", b"\xff"]), st.binary()
)


@given(st.lists(_PARTS, max_size=8).map(b"/".join).filter(lambda path: b"\0" not in path))
@example(b"/../../a")
@example(b"//a")
@example(b"./.")
def test_clean_path_is_what_posixpath_makes_of_it(path: bytes) -> None:
    assert clean_path(path) == clean(path)
    assert clean_path(clean_path(path)) == clean_path(path)


@given(st.lists(_PARTS, max_size=8).map(b"/".join).filter(lambda path: b"\0" not in path))
def test_entries_are_found_under_their_clean_path(path: bytes) -> None:
    index = LayerIndex()
    _add(index, path, _DIR)
    index.seal(1)
    tree = Tree(merge([index]))
    name = clean(path).rpartition(b"/")[2]
    if not name.startswith(b".wh."):
        assert tree.path(tree.inodes) == clean(path)


@pytest.mark.parametrize("name", [b"n" * 255, b".wh." + b"n" * 255])
def test_the_longest_names(name: bytes) -> None:
    assert clean_path(b"d/" + name) == b"d/" + name


@pytest.mark.parametrize(
    "path", [b"n" * 256, b"d/" + b"n" * 256 + b"/e", b".wh." + b"n" * 255 + b"/e", b"a\0b", b"\0"]
)
def test_should_fail_at_impossible_names(path: bytes) -> None:
    with pytest.raises(FormatError, match="no file can have"):
        clean_path(path)
    with pytest.raises(FormatError, match="no file can have"):
        _add(LayerIndex(), path)


def test_a_name_that_a_parent_cancels_may_be_anything_but_nul() -> None:
    assert clean_path(b"n" * 300 + b"/../a") == b"a"


@pytest.mark.parametrize("levels", [2047, 2048])
def test_the_deepest_paths(levels: int) -> None:
    path = b"/".join([b"d"] * levels)
    assert clean_path(path) == path
    _add(LayerIndex(), path)


def test_should_fail_behind_the_deepest_path() -> None:
    path = b"/".join([b"d"] * 2049)
    with pytest.raises(FormatError, match="2049 levels"):
        clean_path(path)
    with pytest.raises(FormatError, match="2049 levels"):
        _add(LayerIndex(), path)


# times


def _nanos(time: datetime, fraction: int = 0) -> int:
    delta = time - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 10**9 + fraction


def _fits(nanos: int) -> bool:
    return -(2**63) < nanos < 2**63


_ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31), timezones=_ZONES),
    st.text("0123456789", max_size=12),
)
def test_times_are_what_datetime_makes_of_them(time: datetime, fraction: str) -> None:
    text = time.replace(microsecond=0, tzinfo=None).isoformat()
    offset = time.strftime("%z")
    text += ("." + fraction if fraction else "") + f"{offset[:3]}:{offset[3:]}"
    nanos = _nanos(time.replace(microsecond=0), int(fraction[:9].ljust(9, "0")))
    got = parse_time(text)
    if abs(nanos) < 2**63 - 10**10:
        assert got == nanos
    else:
        assert got in (0, nanos)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("", 0),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1969-12-31T23:59:59.1Z", -900_000_000),
        ("2024-02-29T12:34:56.000000001Z", 1709210096 * 10**9 + 1),
        ("2024-02-29T12:34:56.0000000019Z", 1709210096 * 10**9 + 1),
        ("2016-12-31T23:59:60Z", 1483228800 * 10**9),
        ("2000-01-01T00:00:00+00:00", 946684800 * 10**9),
        ("2000-01-01T00:00:00-01:30", 946690200 * 10**9),
        ("2262-04-11T23:47:15Z", 9223372035 * 10**9),
        ("1677-09-21T00:12:45Z", -9223372035 * 10**9),
        # Go's zero time, and what no int64 of ns holds
        ("0001-01-01T00:00:00Z", 0),
        ("0000-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 0),
        ("2262-04-12T00:00:00Z", 0),
    ],
)
def test_times(text: str, nanos: int) -> None:
    assert parse_time(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "2024",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00Z",
        "2024-01-01 00:00:00Z",
        "2024/01/01T00:00:00Z",
        "2024-01-01T00.00.00Z",
        "2024-00-01T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-04-31T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:61Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00.5",
        "2024-01-01T00:00:00ZZ",
        "2024-01-01T00:00:00Z ",
        " 2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00+00",
        "2024-01-01T00:00:00+0000",
        "2024-01-01T00:00:00+00:60",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+0a:00",
        "-024-01-01T00:00:00Z",
        "2024-01-01T00:00:00\0",
        "٢٠٢٤-01-01T00:00:00Z",
    ],
)
def test_should_fail_at_what_is_no_time(text: str) -> None:
    with pytest.raises(FormatError, match="no time"):
        parse_time(text)


@given(st.text("0123456789-:TZ+. ", max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        nanos = parse_time(text)
    except FormatError:
        return
    assert _fits(nanos)


# entries


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"path": b".", "mode": _REG}, "root is not a directory"),
        ({"path": b"a/..", "mode": _LNK, "link": b"b"}, "root is not a directory"),
        ({"size": (1 << 62) + 1}, "impossible size"),
        ({"mode": 0o644}, "no type"),
        ({"mode": stat.S_IFREG | stat.S_IFDIR | stat.S_IFLNK}, "no type"),
        ({"mode": _LNK, "link": b""}, "no link can point to"),
        ({"mode": _LNK, "link": b"x" * 4096}, "no link can point to"),
        ({"mode": _LNK, "link": b"a\0b"}, "no link can point to"),
        ({"xattrs": {b"": b"x"}}, "extended attribute"),
        ({"xattrs": {b"user." + b"x" * 251: b""}}, "extended attribute"),
        ({"xattrs": {b"user.\0": b""}}, "extended attribute"),
        ({"xattrs": {b"user.x": b"x" * 65537}}, "extended attribute"),
    ],
)
def test_should_fail_at_what_no_tree_can_hold(entry: dict[str, object], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        _add(LayerIndex(), **entry)  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "target"), [(b".", b"a"), (b"a", b"/"), (b"a", b"b/..")])
def test_should_fail_at_hard_links_of_the_root(path: bytes, target: bytes) -> None:
    with pytest.raises(FormatError, match="root is a hard link"):
        LayerIndex().add_hardlink(path, target)


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_should_fail_at_numbers_that_no_field_holds(number: int) -> None:
    with pytest.raises(OverflowError):
        _add(LayerIndex(), size=number)
    with pytest.raises(OverflowError):
        LayerIndex().add(b"a", _REG, number, 0, 0, 0, 0, b"", None)


def test_counts_and_sums() -> None:
    index = LayerIndex()
    assert (index.counts, index.file_bytes, index.has_xattrs) == ((0, 0), 0, False)
    _add(index, b"a", size=10)
    index.add_chunk(0, 5, 1, 0, None)
    index.add_chunk(5, 5, 1, 5, None)
    _add(index, b"d", _DIR, size=99)
    _add(index, b"l", _LNK, link=b"target")
    _add(index, b".wh.x", size=7)
    index.add_hardlink(b"h", b"a")
    assert (index.counts, index.file_bytes, index.has_xattrs) == ((5, 2), 10, False)
    _add(index, b"x", xattrs={b"user.x": b"1"})
    assert index.has_xattrs


def test_should_fail_once_sealed() -> None:
    index = _file(0)
    index.seal(1)
    with pytest.raises(AssertionError):
        _add(index)


# chunks


@pytest.mark.parametrize(
    "chunks",
    [
        [(0, 11)],
        [(10, 1)],
        [(9, 2)],
        [(0, 0)],
        [(0, 5), (4, 1)],
        [(5, 5), (0, 5)],
        [(0, 5), (0, 5)],
        [((1 << 64) - 1, 2)],
        [(1, (1 << 64) - 1)],
    ],
)
def test_should_fail_at_chunks_outside_of_their_file_or_over_each_other(
    chunks: list[tuple[int, int]],
) -> None:
    index = _file(10)
    for file_off, size in chunks[:-1]:
        index.add_chunk(file_off, size, 1, 0, None)
    with pytest.raises(FormatError, match="b'a' lies outside of the file or overlaps"):
        index.add_chunk(*chunks[-1], 1, 0, None)


def test_should_fail_at_a_chunk_of_nothing() -> None:
    with pytest.raises(FormatError, match="before any file"):
        LayerIndex().add_chunk(0, 1, 1, 0, None)


@pytest.mark.parametrize("mode", [_DIR, _LNK, stat.S_IFIFO, 0])
def test_should_fail_at_a_chunk_of_what_is_no_file(mode: int) -> None:
    index = _file(10)
    if mode:
        _add(index, b"x", mode, size=10, link=b"a")
    else:
        index.add_hardlink(b"x", b"a")
    with pytest.raises(FormatError, match="no regular file"):
        index.add_chunk(0, 1, 1, 0, None)


@pytest.mark.parametrize("name", [b".wh.x", b".wh..wh..opq", b".wh..wh.plnk", b".wh."])
def test_a_mark_s_chunks_are_nobody_s(name: bytes) -> None:
    index = _file(10)
    _add(index, b"d/" + name, size=10)
    index.add_chunk(0, 10, 1, 0, None)
    assert index.counts[1] == 0
    _add(index, b"b", size=10)
    index.add_chunk(0, 10, 1, 0, None)
    assert index.counts[1] == 1


@pytest.mark.parametrize(("blob_off", "inner_off"), [((1 << 62) + 1, 0), (1, (1 << 62) + 1)])
def test_should_fail_at_impossible_offsets(blob_off: int, inner_off: int) -> None:
    with pytest.raises(FormatError, match="offset is impossible"):
        _file(10).add_chunk(0, 1, blob_off, inner_off, None)


@pytest.mark.parametrize("digest", [b"", b"x" * 31, b"x" * 33])
def test_should_fail_at_a_digest_that_is_no_sha256(digest: bytes) -> None:
    with pytest.raises(FormatError, match="no SHA-256"):
        _file(10).add_chunk(0, 1, 1, 0, digest)


@given(st.lists(st.integers(0, 30), max_size=20))
def test_a_member_ends_where_the_next_one_begins(offsets: list[int]) -> None:
    index = _file(len(offsets))
    for at, off in enumerate(offsets):
        index.add_chunk(at, 1, off, 0, None)
    index.seal(31)
    tree = Tree(merge([index]))
    ends = [tree.chunk(chunk).blob_end for chunk in range(tree.chunks)]
    assert ends == [min((other for other in offsets if other > off), default=31) for off in offsets]


@pytest.mark.parametrize("data_end", [0, 4, 5])
def test_should_fail_at_a_chunk_behind_the_data(data_end: int) -> None:
    index = _file(10)
    index.add_chunk(0, 1, 5, 0, None)
    with pytest.raises(FormatError, match="begins at 5"):
        index.seal(data_end)
    index.seal(6)
