"""The index of plain tars, against what they were made of, tarfile, and GNU tar."""

import dataclasses
import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from crfs.errors import FormatError
from crfs.formats.toc import LANDMARKS, TOC_NAME
from crfs.layers.tarindex import index_tar
from tests.support.layers import (
    MTIME_NS,
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    Hardlink,
    Symlink,
    make_estargz,
    make_tar,
    opaque,
    trees,
    whiteout,
)
from tests.t3_layers.looking import Looks, contents, expected, looks, payloads, tarfile_payloads

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "layer.tar"


def look(path: Path, tar: bytes | None = None) -> Looks:
    if tar is not None:
        path.write_bytes(tar)
    return looks(index_tar(path, "a layer"))


def read(path: Path) -> dict[bytes, bytes]:
    return contents(index_tar(path, "a layer"), path.read_bytes(), compressed=False)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, 1
    return info


def records(headers: dict[bytes, bytes], data: bytes = b"", size: int | None = None) -> bytes:
    """A tar of one file `f` with exactly these PAX records, right or wrong."""
    text = b""
    for key, value in headers.items():
        line = b" %s=%s\n" % (key, value)
        length = len(line)
        while length != len(b"%d" % length) + len(line):
            length = len(b"%d" % length) + len(line)
        text += b"%d" % length + line
    extended = header("pax", len(text), tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    plain = header("f", len(data) if size is None else size).tobuf(tarfile.USTAR_FORMAT)
    return extended + _padded(text) + plain + _padded(data) + bytes(1024)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def raw_field(tar: bytes, at: int, field: bytes) -> bytes:
    """The tar with a field of its first header replaced, and the checksum made right."""
    first = bytearray(tar[:512])
    first[at : at + len(field)] = field
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return bytes(first) + tar[512:]


# --- what tars say


@quick
@given(entries=trees(utf8=False))
def test_tar_holds_what_it_was_made_of(
    entries: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.tar"
    assert look(path, make_tar(entries)) == expected(entries)
    assert read(path) == payloads(entries)


@quick
@given(entries=trees(utf8=False))
def test_gnu_tar_holds_what_it_was_made_of(
    entries: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """GNU's format knows neither attributes nor fractions of a second."""
    path = tmp_path_factory.getbasetemp() / "random.tar"
    known = [
        dataclasses.replace(entry, xattrs={}, mtime_ns=entry.mtime_ns // 10**9 * 10**9) for entry in entries
    ]
    assert look(path, make_tar(known, tarfile.GNU_FORMAT)) == expected(known)
    assert read(path) == payloads(known) == tarfile_payloads_of_files(path)


def tarfile_payloads_of_files(path: Path) -> dict[bytes, bytes]:
    """tarfile's, with its hard links."""
    found = tarfile_payloads(path)
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            if info.islnk() and os.fsencode(info.linkname) in found:
                found[os.fsencode(info.name)] = found[os.fsencode(info.linkname)]
    return found


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_types_in_all_formats(path: Path, tar_format: int) -> None:
    entries: list[Entry] = [
        Dir("d", mode=0o1777, uid=5, gid=6),
        File("d/f", b"content" * 100, mode=0o4755),
        File("d/" + "n" * 90, b"x"),
        Symlink("d/l", "../somewhere"),
        Hardlink("h", "d/f"),
        Device("c", 5, 1),
        Device("b", 8, 300, block=True),
        Fifo("p"),
    ]
    assert look(path, make_tar(entries, tar_format)) == expected(entries)
    assert read(path) == payloads(entries)


@pytest.mark.parametrize("prefix", ["./", "/", ".//", "../../"])
def test_names_are_cleaned(path: Path, prefix: str) -> None:
    entries = [Dir(prefix + "d"), File(prefix + "d/f", b"x"), Hardlink("h", prefix + "d/f")]
    plain = [Dir("d"), File("d/f", b"x"), Hardlink("h", "d/f")]
    assert look(path, make_tar(entries)) == expected(plain)


def test_entry_for_the_root(path: Path) -> None:
    found = look(path, make_tar([Dir("./", mode=0o700, uid=3, xattrs={"user.a": b"\0\xff"})]))
    assert found[b""].mode == stat.S_IFDIR | 0o700
    assert (found[b""].uid, found[b""].xattrs) == (3, {b"user.a": b"\0\xff"})


@pytest.mark.parametrize("tar", [bytes(1024), bytes(512), bytes(10_240), bytes(100 * 512)])
def test_tar_of_nothing(path: Path, tar: bytes) -> None:
    assert list(look(path, tar)) == [b""]


def test_tar_without_its_end(path: Path) -> None:
    """Go's reader takes it as well."""
    tar = make_tar([File("f", b"x" * 512)])
    assert list(look(path, tar[:1024])) == [b"", b"f"]
    assert list(look(path, tar[: 1024 + 100])) == [b"", b"f"]


def test_what_comes_behind_the_end_is_ignored(path: Path) -> None:
    tar = make_tar([File("f", b"x")])
    assert list(look(path, tar[:1024] + bytes(512) + b"garbage" * 1000)) == [b"", b"f"]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1704164645", MTIME_NS),
        ("1704164645.000000001", MTIME_NS + 1),
        ("1704164645.123456789", MTIME_NS + 123_456_789),
        ("1704164645.9999999999999", MTIME_NS + 999_999_999),
        ("9223372035.999999999", 9_223_372_035_999_999_999),
        ("-1.5", -1_500_000_000),
        ("-0.000000001", -1),
        ("1e3", 1_000_000_000_000),
        # no int64 of nanoseconds holds these
        ("9223372037", 0),
        ("-9223372037", 0),
        ("1e300", 0),
    ],
)
def test_times_to_the_nanosecond(path: Path, text: str, ns: int) -> None:
    assert look(path, records({b"mtime": text.encode()}))[b"f"].mtime_ns == ns


@pytest.mark.parametrize(
    "text", [b"", b"now", b"nan", b"inf", b"-Infinity", b"1e99999999", b"1.2.3", b"\xff"]
)
def test_should_fail_times_that_are_none(path: Path, text: bytes) -> None:
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, records({b"mtime": text}))


@pytest.mark.parametrize(
    "value",
    [b"\1\0\0\2\0 \0\0\0", b"\xff\xfe", b"\n", b"9 hdrcharset=BINARY\n", b"a=b\n5 c=d\n", bytes(range(256))],
    ids=repr,
)
def test_attributes_are_binary(path: Path, value: bytes) -> None:
    tar = records({b"SCHILY.xattr.security.capability": value, b"SCHILY.xattr.user.b": b"x"})
    assert look(path, tar)[b"f"].xattrs == {b"security.capability": value, b"user.b": b"x"}


def test_attributes_of_every_type(path: Path) -> None:
    xattrs = {"user.a": b"\0\xff", "trusted.overlay.opaque": b"y"}
    entries = [Dir("d", xattrs=xattrs), File("f", xattrs=xattrs), Symlink("l", "f", xattrs=xattrs)]
    found = look(path, make_tar(entries))
    assert [found[name].xattrs for name in (b"d", b"f", b"l")] == [
        {name.encode(): value for name, value in xattrs.items()}
    ] * 3


def test_names_that_are_not_utf8(path: Path) -> None:
    raw = b"caf\xe9/\xff\xfe" + b"\xe9" * 150
    name = os.fsdecode(raw)
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        entries = [File(name, b"x"), Symlink("l", name), Hardlink("h", name)]
        found = look(path, make_tar(entries, tar_format))
        assert set(found) == {b"", b"caf\xe9", raw, b"l", b"h"}
        assert found[b"l"].link == raw


def test_names_do_not_depend_on_the_locale(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile.TarFile, "encoding", "latin-1")
    for tar_format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tar_format, encoding="utf-8") as tar:
            tar.addfile(header("é"))
        assert set(look(path, out.getvalue())) == {b"", "é".encode()}


def test_whiteouts_hide_nothing_of_their_own_layer(path: Path) -> None:
    entries = [Dir("d"), File("d/f", b"x"), whiteout("d/f"), opaque("d"), File(".wh..wh.plnk", b"x")]
    assert set(look(path, make_tar(entries))) == {b"", b"d", b"d/f"}


def test_unknown_types_are_files(path: Path) -> None:
    """POSIX says so, and zeros in place of their bytes would be the worst of all answers."""
    tar = header("v", 700, b"V").tobuf() + _padded(b"y" * 700) + make_tar([File("f", b"x")])
    assert set(look(path, tar)) == {b"", b"v", b"f"}
    assert read(path) == {b"v": b"y" * 700, b"f": b"x"}


def test_old_spellings_of_file_and_directory(path: Path) -> None:
    tar = header("f", 3, tarfile.AREGTYPE).tobuf() + _padded(b"abc")
    tar += header("c", 3, tarfile.CONTTYPE).tobuf() + _padded(b"def")
    tar += header("d/", 0, tarfile.AREGTYPE).tobuf() + bytes(1024)
    found = look(path, tar)
    assert stat.S_ISDIR(found[b"d"].mode)
    assert read(path) == {b"f": b"abc", b"c": b"def"}


# --- layers that have a TOC


def test_toc_and_landmarks_are_hidden_in_a_stargz(path: Path) -> None:
    blob, _ = make_estargz([Dir("d"), File("d/.prefetch.landmark", b"x"), File("f", b"y")])
    tar = gzip.decompress(blob)
    assert TOC_NAME.encode() in tar
    assert b".no.prefetch.landmark" in tar
    assert set(look(path, tar)) == {b"", b"d", b"d/.prefetch.landmark", b"f"}


def test_the_same_names_are_shown_in_any_other_layer(path: Path) -> None:
    entries = [*(File(name, b"x") for name in LANDMARKS), File(TOC_NAME, b"y"), File("f", b"z")]
    assert look(path, make_tar(entries)) == expected(entries)
    assert read(path) == payloads(entries)


# --- GNU tar


def gnu_tar(directory: Path, path: Path, *options: str) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar")
    subprocess.run(["tar", "-C", directory, "-cf", path, *options, "."], check=True)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A directory with files that have holes."""
    directory = tmp_path / "sparse"
    directory.mkdir()
    layouts: dict[str, list[tuple[int, bytes]]] = {
        "middle": [(0, b"a" * 4096), (1 << 20, b"b" * 5000), (3 << 20, b"c")],
        "begin": [(1 << 20, b"d" * 100)],
        "many": [(number * 65_536, b"%d" % number * 1000) for number in range(60)],
        "none": [(0, b"e" * 10_000)],
    }
    for name, parts in layouts.items():
        with (directory / name).open("wb") as file:
            for at, data in parts:
                file.seek(at)
                file.write(data)
    with (directory / "end").open("wb") as file:
        file.write(b"f" * 4096)
        file.truncate(1 << 20)
    with (directory / "hole").open("wb") as file:
        file.truncate(1 << 20)
    return directory


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
def test_sparse_files(sparse: Path, path: Path, options: list[str]) -> None:
    gnu_tar(sparse, path, "--sparse", *options)
    wanted = {os.fsencode(file.name): file.read_bytes() for file in sparse.iterdir()}
    assert path.stat().st_size < 2 << 20
    assert read(path) == wanted
    assert {name.removeprefix(b"./"): data for name, data in tarfile_payloads(path).items()} == wanted


def stat_like(path: Path) -> Callable[[bytes], tuple[int, ...]]:
    def see(name: bytes) -> tuple[int, ...]:
        at = os.lstat(os.path.join(os.fsencode(path), name))
        size = at.st_size if not stat.S_ISDIR(at.st_mode) else 0
        return at.st_mode, at.st_uid, at.st_gid, size, at.st_mtime_ns

    return see


def test_tree_of_gnu_tar_with_all_it_knows(tmp_path: Path, path: Path) -> None:
    directory = tmp_path / "tree"
    (directory / "sub").mkdir(parents=True)
    root = os.fsencode(directory)
    raw = os.path.join(root, b"sub", b"\xff\xe9" * 60)
    with open(raw, "wb") as file:
        file.write(b"raw")
    (directory / "link").symlink_to("sub/../somewhere")
    os.link(raw, directory / "hard")
    os.mkfifo(directory / "fifo")
    for number, name in enumerate([raw, b"link", b"fifo", b"sub", b""]):
        os.utime(os.path.join(root, name), ns=(0, MTIME_NS + 123_456_789 + number), follow_symlinks=False)
    try:
        os.setxattr(raw, "user.binary", b"\0\1\n=\xff")
    except OSError:
        pytest.skip("no extended attributes here")
    gnu_tar(directory, path, "--format=posix", "--xattrs", "--sort=name")
    found = look(path)
    see = stat_like(directory)
    assert {b"", b"sub", b"link", b"hard", b"fifo"} < set(found)
    for name, seen in found.items():
        assert (seen.mode, seen.uid, seen.gid, seen.size, seen.mtime_ns) == see(name)
    assert found[b"hard"].xattrs == {b"user.binary": b"\0\1\n=\xff"}
    assert found[b"hard"].nlink == 2


# --- what is no tar, or a hostile one

GOOD = make_tar([Dir("d"), File("d/f", b"x" * 1000), File("g", b"y" * 1000)])


@pytest.mark.parametrize(
    "tar",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>" * 200, id="html"),
        pytest.param(GOOD[:100], id="cut-in-the-first-header"),
        pytest.param(GOOD[: 512 + 100], id="cut-in-a-header"),
        pytest.param(GOOD[: 1024 + 100], id="cut-in-a-file"),
        pytest.param(GOOD[: 1024 + 1000], id="cut-before-padding"),
        pytest.param(GOOD[:512] + b"X" + GOOD[513:], id="damaged-header"),
        pytest.param(GOOD[:2048] + b"X" + GOOD[2049:], id="damaged-last-header"),
        pytest.param(GOOD[:2048] + b"garbage", id="garbage-for-a-header"),
    ],
)
def test_should_fail_damaged_tars(path: Path, tar: bytes) -> None:
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, tar)


@pytest.mark.parametrize(
    "records_",
    [
        {b"size": b"-1024"},
        {b"size": b"99999999999999999999"},
        {b"uid": b"-1"},
        {b"gid": b"4294967296"},
        {b"path": b"x" * 300},
        {b"path": b"a\0b/c"},
        {b"path": b"a/" * 2100},
        {b"SCHILY.xattr.": b"nameless"},
        {b"SCHILY.xattr." + b"x" * 256: b"long"},
        {b"GNU.sparse.map": b"0,5,3,5", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,-5", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,5,100,5", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,1,x", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"},
    ],
    ids=lambda lie: str(lie)[:40],
)
def test_should_fail_records_that_lie(path: Path, records_: dict[bytes, bytes]) -> None:
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, records(records_, b"0123456789"))


@pytest.mark.parametrize("name", ["f", ".prefetch.landmark"])
@pytest.mark.parametrize(
    "field", [b"\xff" * 10 + b"\xfe\0", b"\xff" * 10 + b"\xfc\0", b"\x80" + b"\xff" * 11]
)
def test_should_fail_sizes_that_lead_back_or_nowhere(path: Path, name: str, field: bytes) -> None:
    """Python's tarfile once read such a tar for ever (CVE-2025-8194)."""
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, raw_field(make_tar([File(name, b"x")]), 124, field))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_should_fail_headers_without_end(path: Path, kind: bytes) -> None:
    chain = (header("more", 0, kind).tobuf(tarfile.USTAR_FORMAT)) * 5000
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, chain + GOOD)


def test_should_fail_devices_that_are_none(path: Path) -> None:
    tar = raw_field(make_tar([Device("c", 1, 1)]), 329, b"\xff" * 8)
    with pytest.raises(FormatError, match=r"^a layer: "):
        look(path, tar)


def test_should_fail_hard_links_that_lead_nowhere(path: Path) -> None:
    with pytest.raises(FormatError, match="not there"):
        look(path, make_tar([Hardlink("h", "nowhere")]))
