"""The streaming reader of tars, against Python's own: the same entries, and the same bytes in them."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.convert.entries import TarEntry
from crfs.convert.tarstream import TarStream, parse_usual
from crfs.errors import FormatError
from tests.support.layers import Dir, Entry, File, make_tar, trees

FIELDS = ("name", "size", "mtime", "mode", "uid", "gid", "uname", "gname", "linkname", "type", "devmajor")
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
SAMPLE: list[Entry] = [
    Dir("d"),
    File("d/f", b"x" * 700),
    File("n" * 300, b"y", xattrs={"user.a": b"\0\xff\n="}),
]


def read(tar: bytes) -> list[tuple[TarEntry, bytes]]:
    return [(entry, entry.open_payload().read()) for entry in TarStream(io.BytesIO(tar))]


def check(tar: bytes) -> None:
    """That it is read as tarfile does."""
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as oracle:
        members = oracle.getmembers()
        found = read(tar)
        assert [entry.info.name for entry, _ in found] == [info.name for info in members]
        for (entry, data), info in zip(found, members, strict=True):
            for field in (*FIELDS, "pax_headers"):
                assert getattr(entry.info, field) == getattr(info, field), field
            file = oracle.extractfile(info) if info.isreg() else None
            assert data == (file.read() if file else b"")


@settings(deadline=None)
@given(trees(utf8=False), st.sampled_from(FORMATS))
def test_any_tree(tree: list[Entry], tar_format: int) -> None:
    try:
        tar = make_tar(tree, tar_format)
    except ValueError:
        return  # GNU's headers hold no such number
    check(tar)


_OCTAL = st.integers(0, 0o777777).map(lambda number: f"{number:o}")
_JUNK = st.one_of(
    st.binary(max_size=9), st.text("01278 \0\t-_", max_size=9).map(str.encode), st.just(b"\x80\0\0\1")
)


@settings(max_examples=400)
@given(
    st.sampled_from(SAMPLE),
    st.sampled_from([b"", b"0", b"5", b"1", b"2", b"\0", b"7", b"S", b"L", b"x"]),
    st.lists(st.tuples(st.integers(0, 505), st.one_of(_JUNK, _OCTAL.map(str.encode))), max_size=4),
    st.sampled_from([0, 0, 0, 1, 256]),
)
def test_usual_headers_are_read_as_by_tarfile(
    entry: Entry, kind: bytes, changes: list[tuple[int, bytes]], off: int
) -> None:
    header = bytearray(entry.header().tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")[-512:])
    if kind:
        header[156:157] = kind
    for at, change in changes:
        header[at : at + len(change)] = change[: 512 - at]
    if not any(140 < at < 156 for at, _ in changes):
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header) + off:06o}\0 ".encode()
    found = parse_usual(bytes(header))
    if found is None:
        return
    wanted = tarfile.TarInfo.frombuf(bytes(header), "utf-8", "surrogateescape")
    for field in (*FIELDS, "devminor", "chksum"):
        assert getattr(found, field) == getattr(wanted, field), field


def test_usual_headers_are_not_left_to_tarfile() -> None:
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
        info = tarfile.TarInfo("a" * 90 + "/" + "b" * 60)
        info.type, info.linkname, info.uname, info.mtime = kind, "there", "root", 1_700_000_000
        for header in (info.tobuf(tarfile.PAX_FORMAT), info.tobuf(tarfile.GNU_FORMAT)):
            assert parse_usual(header[-512:]) is not None


@given(trees(utf8=False))
def test_raw_headers_payloads_and_tail_are_the_tar(tree: list[Entry]) -> None:
    tar = make_tar(tree)
    stream = TarStream(io.BytesIO(tar))
    again = b""
    for entry in stream:
        data = entry.open_payload().read()
        assert entry.raw is not None
        again += entry.raw + data + bytes(-len(data) % 512)
    assert again + stream.tail == tar


def test_payloads_that_nobody_reads() -> None:
    assert [entry.name for entry in TarStream(io.BytesIO(make_tar(SAMPLE)))] == ["d", "d/f", "n" * 300]


def test_global_headers_are_for_all_and_not_kept_raw() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"uname": "somebody", "mtime": "5.5"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
        tar.addfile(tarfile.TarInfo("b"))
    found = read(out.getvalue())
    assert [(entry.info.uname, entry.info.mtime, entry.raw is None) for entry, _ in found] == [
        ("somebody", 5.5, True),
        ("somebody", 5.5, False),
    ]
    check(out.getvalue())


@pytest.mark.skipif(not shutil.which("tar"), reason="tar is not installed")
@pytest.mark.parametrize(
    "flags", [("--format=gnu",), *(("--format=pax", f"--sparse-version={v}") for v in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files(tmp_path: Path, flags: tuple[str, ...]) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        for off in (0, 900_000, 2_000_000):
            file.seek(off)
            file.write(os.urandom(5000))
        file.truncate(3_000_000)
    (tmp_path / "after").write_bytes(b"after")
    command = ["tar", *flags, "-S", "-cf", "-", "-C", str(tmp_path), "sparse", "after"]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(tar) < 100_000
    (entry, data), (_, after) = read(tar)
    assert (entry.info.size, entry.raw, data, after) == (3_000_000, None, sparse.read_bytes(), b"after")
    # and where nobody reads it
    assert [entry.name for entry in TarStream(io.BytesIO(tar))] == ["sparse", "after"]


def test_eight_gigabytes_in_one_header() -> None:
    class Zeros(io.RawIOBase):
        """The header, then as many zeros as one wants."""

        def __init__(self, head: bytes) -> None:
            self.head = io.BytesIO(head)

        def read(self, size: int = -1) -> bytes:
            return self.head.read(size) or bytes(size)

    info = tarfile.TarInfo("huge")
    info.size = (8 << 30) + 5
    for head in (info.tobuf(tarfile.PAX_FORMAT), info.tobuf(tarfile.GNU_FORMAT)):
        entry = next(iter(TarStream(Zeros(head))))
        assert entry.info.size == info.size
        assert len(entry.open_payload().read(1 << 20)) == 1 << 20


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (b"", "no tar: it is empty"),
        (b"x" * 100, "no tar"),
        (b"x" * 5000, "no tar"),
        (make_tar(SAMPLE)[:1100], "cut short in the middle of a file"),
        (make_tar(SAMPLE)[:1300], "cut short in the middle of a file"),
        (make_tar(SAMPLE)[:2100], "cut short"),
        (make_tar(SAMPLE)[:512] + b"junk" * 128 + bytes(1024), "damaged header behind 512 bytes"),
        (make_tar(SAMPLE[2:])[:1024], "the tar ends behind an extended header"),
        (make_tar(SAMPLE[2:])[:512] + b"junk" * 128 + make_tar(SAMPLE), "malformed extended header"),
    ],
)
def test_should_fail_what_is_no_tar(tar: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(tar)


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_survives_any_bytes(junk: bytes, at: int) -> None:
    tar = make_tar(SAMPLE)
    for data in (junk, tar[:at] + junk, tar[:at] + junk + tar[at + len(junk) :]):
        try:
            read(data)
        except FormatError:
            continue
