"""eStargz and stargz as convert/ writes them, taken apart again with nothing but zlib, json and tarfile."""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.convert.entries import iter_tar
from crfs.convert.lazylayer import Options, write_layer
from crfs.errors import FormatError, NotLazyError
from crfs.formats.footer import FooterKind, find_footer
from crfs.formats.toc import unpack_toc
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
    to_tar_entry,
    trees,
)

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
ESTARGZ_FOOTER = bytes.fromhex("1f8b08040000000000ff1a0053471600")
Toc = list[dict[str, Any]]


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(blob: bytes, start: int) -> tuple[bytes, int]:
    """The gzip member at `start`, inflated, and where it ends."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    data = inflater.decompress(blob[start:]) + inflater.flush()
    assert inflater.eof
    return data, len(blob) - len(inflater.unused_data)


def toc_json(blob: bytes) -> bytes:
    """The TOC that the footer points to, with everything around it checked."""
    footer = find_footer(blob)
    assert footer is not None
    tar, end = member(blob, footer.toc_off)
    assert end == len(blob) - footer.size
    assert member(blob, end) == (b"", len(blob))
    return unpack_toc(tar)


def read_toc(blob: bytes) -> Toc:
    document = json.loads(toc_json(blob))
    assert document["version"] == 1
    entries: Toc = document["entries"]
    return entries


def read_files(blob: bytes, toc: Toc) -> dict[str, bytes]:
    """Every file put together from its chunks; each chunk and each file has the digest that the TOC says."""
    files: dict[str, bytes] = {}
    regular: dict[str, Any] = {}
    for entry in toc:
        if entry["type"] == "reg":
            regular = entry
            files[entry["name"]] = b""
        if entry["type"] == "chunk" or entry.get("size"):
            assert entry["name"] == regular["name"]
            assert len(files[entry["name"]]) == entry.get("chunkOffset", 0)
            size = entry.get("chunkSize") or regular["size"] - entry.get("chunkOffset", 0)
            inner = entry.get("innerOffset", 0)
            assert entry["offset"] > 0
            data = member(blob, entry["offset"])[0][inner : inner + size]
            assert len(data) == size
            assert entry.get("chunkDigest", sha256(data)) == sha256(data)
            files[entry["name"]] += data
    for entry in toc:
        if entry["type"] == "reg":
            assert sha256(files[entry["name"]]) == entry["digest"]
    return files


def read_tar(tar: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            found[info.name] = (info, file.read() if file else b"")
    return found


SAMPLE: list[Entry] = [
    Dir("./", mode=0o700),
    Dir("usr", uid=1, gid=2, uname="one", gname="two"),
    File("usr/file", b"x" * 2500, mode=0o4755, uid=1, uname="one", mtime_ns=MTIME_NS + 5_000_000),
    File("usr/empty", xattrs={"user.k": b"\0\xff", "security.capability": b"cap"}),
    File("exact", b"y" * 2048),
    Symlink("link", "usr/file"),
    Hardlink("hard", "usr/file"),
    Device("null", 1, 3),
    Device("disk", 8, 1, block=True),
    Fifo("fifo", mode=0o600, mtime_ns=0),
    File("long/" + "n" * 255, b"long"),
]


# the blob


def test_result_tells_the_truth() -> None:
    blob, converted = make_estargz(SAMPLE)
    tar = gzip.decompress(blob)
    assert (converted.digest, converted.size) == (sha256(blob), len(blob))
    assert (converted.diff_id, converted.uncompressed_size) == (sha256(tar), len(tar))
    assert converted.toc_digest == sha256(toc_json(blob))
    assert converted.annotations == {
        TOC_DIGEST: converted.toc_digest,
        "io.containers.estargz.uncompressed-size": str(len(tar)),
    }
    assert blob[-51:].startswith(ESTARGZ_FOOTER)


def test_same_entries_same_bytes() -> None:
    assert make_estargz(SAMPLE, chunk_size=1000)[0] == make_estargz(SAMPLE, chunk_size=1000)[0]


def test_attributes_in_the_toc() -> None:
    blob, _ = make_estargz(SAMPLE, chunk_size=1024)
    toc = {entry["name"]: entry for entry in read_toc(blob) if entry["type"] != "chunk"}
    modtime = "2024-01-02T03:04:05Z"
    assert toc["./"] == {"name": "./", "type": "dir", "mode": 0o700, "modtime": modtime}
    assert toc["usr/"] == {
        "name": "usr/",
        "type": "dir",
        "mode": 0o755,
        "modtime": modtime,
        "uid": 1,
        "gid": 2,
        "userName": "one",
        "groupName": "two",
    }
    file = toc["usr/file"]
    assert (file["size"], file["mode"], file["modtime"]) == (2500, 0o4755, "2024-01-02T03:04:05.005Z")
    # told once per id
    assert "userName" not in file
    xattrs = {name: base64.b64decode(value) for name, value in toc["usr/empty"]["xattrs"].items()}
    assert xattrs == {"user.k": b"\0\xff", "security.capability": b"cap"}
    assert "offset" not in toc["usr/empty"]
    assert (toc["link"]["type"], toc["link"]["linkName"]) == ("symlink", "usr/file")
    assert (toc["hard"]["type"], toc["hard"]["linkName"]) == ("hardlink", "usr/file")
    assert (toc["null"]["type"], toc["null"]["devMajor"], toc["null"]["devMinor"]) == ("char", 1, 3)
    assert (toc["disk"]["type"], toc["disk"]["devMajor"], toc["disk"]["devMinor"]) == ("block", 8, 1)
    assert toc["fifo"] == {"name": "fifo", "type": "fifo", "mode": 0o600}


def test_chunks_of_a_file() -> None:
    blob, _ = make_estargz(SAMPLE, chunk_size=1024)
    chunks = [entry for entry in read_toc(blob) if entry["name"] in ("usr/file", "exact")]
    assert [(c["type"], c.get("chunkOffset"), c.get("chunkSize")) for c in chunks] == [
        ("reg", None, 1024),
        ("chunk", 1024, 1024),
        ("chunk", 2048, None),
        ("reg", None, 1024),
        ("chunk", 1024, 1024),
    ]
    assert len({chunk["offset"] for chunk in chunks}) == 5


def test_several_files_in_one_member() -> None:
    many = [File(f"f{index}", bytes([index]) * 100) for index in range(50)]
    blob, _ = make_estargz(many, min_chunk_size=10_000)
    toc = read_toc(blob)
    assert read_files(blob, toc) == {file.name: file.data for file in many} | {
        ".no.prefetch.landmark": b"\x0f"
    }
    assert len({entry["offset"] for entry in toc}) < 10
    assert any(entry.get("innerOffset") for entry in toc)
    assert len(blob) < len(make_estargz(many)[0])


@pytest.mark.parametrize("min_chunk_size", [0, 1 << 20])
def test_stargz_of_old(min_chunk_size: int) -> None:
    blob, converted = make_estargz(SAMPLE, kind=FooterKind.STARGZ, min_chunk_size=min_chunk_size)
    toc = read_toc(blob)
    assert converted.annotations == {}
    assert toc[0]["name"] == "./"
    assert not any("chunkDigest" in entry for entry in toc)
    assert read_files(blob, toc)["usr/file"] == b"x" * 2500
    assert len(blob) - 47 == blob.rindex(b"\x1f\x8b\x08\x04")


def test_external_toc() -> None:
    blob, converted = make_estargz(SAMPLE, kind=FooterKind.EXTERNAL_TOC)
    footer = find_footer(blob)
    assert footer is not None
    assert (footer.kind, footer.size) == (FooterKind.EXTERNAL_TOC, 46)
    assert converted.external_toc is not None
    toc_layer = read_tar(gzip.decompress(converted.external_toc))
    (json_bytes,) = [data for _, data in toc_layer.values()]
    assert converted.toc_digest == sha256(json_bytes)
    assert read_files(blob, json.loads(json_bytes)["entries"])["usr/file"] == b"x" * 2500
    assert "stargz.index.json" not in read_tar(gzip.decompress(blob))


def test_entries_of_an_earlier_conversion_are_replaced() -> None:
    blob, first = make_estargz(SAMPLE)
    out = io.BytesIO()
    again = write_layer(iter_tar(io.BytesIO(blob)), out)
    assert out.getvalue() == blob
    assert again == first


def test_gnu_tar_lists_and_extracts_it(tmp_path: Any) -> None:
    blob, _ = make_estargz(SAMPLE, chunk_size=1024)
    path = tmp_path / "layer.tar.gz"
    path.write_bytes(blob)
    names = subprocess.run(["tar", "-tzf", path], check=True, capture_output=True, text=True, timeout=30)
    assert names.stdout.splitlines() == [
        ".no.prefetch.landmark",
        *("./", "usr/", *(entry.name for entry in SAMPLE[2:])),
        "stargz.index.json",
    ]
    # tarfile says so for binary xattrs (POSIX), and GNU tar reads them all the same
    assert set(names.stderr.splitlines()) <= {"tar: Ignoring unknown extended header keyword 'hdrcharset'"}
    extract = ["tar", "-xzf", path, "-C", tmp_path, "usr/file", "usr"]
    subprocess.run(extract, check=True, capture_output=True, timeout=30)
    assert (tmp_path / "usr/file").read_bytes() == b"x" * 2500


# order


def test_landmark_without_priorities_comes_first() -> None:
    toc = read_toc(make_estargz(SAMPLE)[0])
    assert (toc[0]["name"], toc[0]["size"]) == (".no.prefetch.landmark", 1)


@pytest.mark.parametrize("min_chunk_size", [0, 1 << 20])
def test_prioritized_files_come_before_the_landmark(min_chunk_size: int) -> None:
    entries = [*SAMPLE, Dir("opt"), Dir("opt/app"), File("opt/app/run", b"run")]
    wanted = ("/opt/app/run", "./hard", "no/such/file", "usr/file")
    blob, _ = make_estargz(entries, prioritized=wanted, min_chunk_size=min_chunk_size)
    toc = read_toc(blob)
    names = [entry["name"] for entry in toc]
    assert names[:7] == ["./", "opt/", "opt/app/", "opt/app/run", "usr/", "usr/file", "hard"]
    assert names[7] == ".prefetch.landmark"
    assert sorted(names[8:]) == sorted(set(names) - set(names[:8]))
    landmark = toc[7]["offset"]
    assert all(entry["offset"] < landmark for entry in toc[:7] if entry.get("size"))
    assert all(entry["offset"] >= landmark for entry in toc[8:] if entry.get("size"))
    assert read_files(blob, toc)[".prefetch.landmark"] == b"\x0f"


def test_of_prioritized_duplicates_the_last_one_stays() -> None:
    blob, _ = make_estargz([File("a", b"old"), File("b"), File("./a", b"new")], prioritized=("a",))
    assert read_files(blob, read_toc(blob)) == {"./a": b"new", "b": b"", ".prefetch.landmark": b"\x0f"}


@pytest.mark.warns("none of its files comes first")
def test_hard_links_in_a_circle_end() -> None:
    toc = read_toc(make_estargz([Hardlink("a", "b"), Hardlink("b", "a")], prioritized=("b",))[0])
    assert [entry["name"] for entry in toc] == [".no.prefetch.landmark", "a", "b"]


# random trees


@settings(max_examples=40, deadline=None)
@given(
    tree=trees(chunk_size=1024),
    chunk_size=st.sampled_from([512, 1000, 1024, 1 << 22]),
    min_chunk_size=st.sampled_from([0, 1, 1500, 1 << 20]),
    kind=st.sampled_from([FooterKind.ESTARGZ, FooterKind.STARGZ]),
)
def test_any_tree(tree: list[Entry], chunk_size: int, min_chunk_size: int, kind: FooterKind) -> None:
    """The tar inside says what the entries say, and the TOC says what the tar says."""
    blob, converted = make_estargz(tree, chunk_size=chunk_size, min_chunk_size=min_chunk_size, kind=kind)
    assert converted.digest == sha256(blob)
    toc = read_toc(blob)
    tar = read_tar(gzip.decompress(blob))
    assert tar.pop("stargz.index.json")[1] == toc_json(blob)
    tar.pop(".no.prefetch.landmark", None)
    expected = read_tar(make_tar(tree))
    assert {name: (facts(info), data) for name, (info, data) in tar.items()} == {
        name: (facts(info), data) for name, (info, data) in expected.items()
    }
    described = {e["name"].rstrip("/"): e for e in toc if e["type"] != "chunk"}
    described.pop(".no.prefetch.landmark", None)
    assert list(described) == [entry.name for entry in tree]
    for name, data in read_files(blob, toc).items():
        if name in tar:
            assert data == tar[name][1]


def facts(info: tarfile.TarInfo) -> dict[str, object]:
    """What must survive a conversion."""
    records = {key: value for key, value in info.pax_headers.items() if key == "mtime" or "xattr" in key}
    kept = (
        "type",
        "mode",
        "uid",
        "gid",
        "uname",
        "gname",
        "size",
        "linkname",
        "mtime",
        "devmajor",
        "devminor",
    )
    return {"records": records, **{key: getattr(info, key) for key in kept}}


@settings(max_examples=30, deadline=None)
@given(tree=trees(utf8=False))
def test_any_bytes_are_names_in_a_tar(tree: list[Entry]) -> None:
    """Not of convert/ but of what the tests of other floors build on."""
    assert [name.encode("utf-8", "surrogateescape") for name in read_tar(make_tar(tree))] == [
        entry.path for entry in tree
    ]


# sources


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_any_tar_gives_the_same_layer(tar_format: int, compression: str) -> None:
    plain = [entry for entry in SAMPLE if not entry.xattrs and not entry.mtime_ns % 10**9]
    tar = make_tar(plain, tar_format)
    if compression == "gzip":
        # two members, as pigz and ours write them
        tar = gzip.compress(tar[:5000]) + gzip.compress(tar[5000:])
    elif compression == "zstd":
        zstandard = pytest.importorskip("zstandard")
        tar = zstandard.compress(tar[:5000]) + zstandard.compress(tar[5000:])
    out = io.BytesIO()
    file = io.BytesIO(tar)
    write_layer(iter_tar(file), out)
    assert out.getvalue() == make_estargz(plain)[0]
    assert not file.closed


def test_sparse_file_is_written_in_full(tmp_path: Any) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    for flavour in ("--format=gnu", "--format=pax"):
        command = ["tar", "-C", tmp_path, "-S", flavour, "-cf", tmp_path / "x.tar", "sparse"]
        subprocess.run(command, check=True, timeout=30)
        out = io.BytesIO()
        with (tmp_path / "x.tar").open("rb") as tar:
            write_layer(iter_tar(tar), out)
        blob = out.getvalue()
        assert read_files(blob, read_toc(blob))["sparse"] == bytes(1 << 20) + b"end"
        assert read_tar(gzip.decompress(blob))["sparse"][1] == bytes(1 << 20) + b"end"


@pytest.mark.parametrize("cut", [100, 700, 3000])
@pytest.mark.parametrize("compressed", [False, True])
def test_should_fail_damaged_tar(cut: int, compressed: bool) -> None:
    tar = make_tar([File("a", b"x" * 5000)])[:cut]
    data = gzip.compress(tar) if compressed else tar
    with pytest.raises(FormatError):
        write_layer(iter_tar(io.BytesIO(data)), io.BytesIO())


def test_should_fail_damaged_gzip() -> None:
    data = bytearray(gzip.compress(make_tar([File("a", bytes(range(256)) * 100)])))
    data[200] ^= 0xFF
    with pytest.raises(FormatError):
        write_layer(iter_tar(io.BytesIO(bytes(data))), io.BytesIO())


@pytest.mark.parametrize(
    "entry", [File("\udcff"), Symlink("a", "\udcff"), File("a", xattrs={"user.\udcff": b""})]
)
def test_should_fail_name_that_json_cannot_hold(entry: Entry) -> None:
    with pytest.raises(NotLazyError, match="not UTF-8"):
        make_estargz([entry])


def test_owner_name_that_json_cannot_hold_is_left_out() -> None:
    blob, _ = make_estargz([File("a", uname="\udcff")])
    assert "userName" not in read_toc(blob)[-1]
    assert read_tar(gzip.decompress(blob))["a"][0].uname == "\udcff"


def test_should_fail_payload_that_ends_early() -> None:
    entry = to_tar_entry(File("a", b"short"))
    entry.info.size = 6
    with pytest.raises(FormatError, match="'a' ends 1 bytes before its size"):
        write_layer([entry], io.BytesIO())


def test_should_fail_unknown_type() -> None:
    entry = to_tar_entry(File("a"))
    entry.info.type = b"V"
    with pytest.raises(FormatError, match="unknown tar type"):
        write_layer([entry], io.BytesIO())


def test_should_fail_time_that_rfc_3339_cannot_hold() -> None:
    with pytest.raises(FormatError, match="impossible time"):
        make_estargz([File("a", mtime_ns=10**12 * 10**9)])


def test_default_chunk_size_is_that_of_the_reference() -> None:
    assert Options().chunk_size == 4 << 20
