"""Layers of every format through a server, how many requests they cost, and blobs that lie."""

import gzip
import hashlib
import json
import struct
import tarfile
import zlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings

from crfs.blobs.http import Http
from crfs.blobs.store import open_store
from crfs.blobs.url import UrlBlob
from crfs.convert.lazylayer import ConvertedLayer
from crfs.errors import CrfsError, DigestMismatch, FormatError, TransportError, UnsupportedError
from crfs.formats.footer import FooterKind, build_footer, find_footer
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from crfs.formats.reference import parse_url
from crfs.formats.toc import MAX_TOC_SIZE, TOC_DIGEST_ANNOTATION, TOC_NAME
from crfs.layers.layer import Format, Layer, Trust
from crfs.layers.opener import Opener
from tests.support.faults import CutBody, FaultProxy, IgnoreRange, Status
from tests.support.fetching import with_http
from tests.support.layers import Dir, Entry, File, Hardlink, Symlink, make_estargz, make_tar, trees
from tests.t3_layers.looking import contents, expected, looks, payloads

ENTRIES: list[Entry] = [
    Dir("d", xattrs={"user.a": b"\0\xff"}),
    File("d/small", b"small"),
    File("d/large", bytes(range(256)) * 200, mode=0o4755),
    File("empty"),
    Hardlink("again", "d/large"),
    Symlink("link", "d/small"),
    File("last", b"z" * 3000),
]
T = TypeVar("T")


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Bench:
    """A server for blobs, and what opens them."""

    def __init__(self, root: Path) -> None:
        self.blobs: dict[str, bytes] = {}
        self.proxy = FaultProxy(self.blobs)
        self.store = open_store(root)
        self.root = root
        self.pool = ThreadPoolExecutor(2)
        self.diff_ids_asked = 0

    def run(self, data: bytes, work: Callable[[UrlBlob, Opener], Awaitable[T]], **options: Any) -> T:
        self.blobs["/layer"] = data
        self.proxy.requests.clear()

        async def with_blob(http: Http) -> T:
            blob = UrlBlob(parse_url(f"{self.proxy.url}/layer"), http, verify=False)
            return await work(blob, Opener(self.store, self.pool, **options))

        return with_http(with_blob)

    def open(self, data: bytes, descriptor: Descriptor, diff_id: str = "", **options: Any) -> Layer:
        async def find_diff_id() -> str:
            self.diff_ids_asked += 1
            return diff_id

        return self.run(
            data, lambda blob, opener: opener.open_layer(blob, descriptor, find_diff_id), **options
        )

    def open_single(self, data: bytes) -> Layer:
        return self.run(data, lambda blob, opener: opener.open_single(blob))

    @property
    def ranges(self) -> list[str | None]:
        return [seen.headers.get("Range") for seen in self.proxy.requests]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "cache")
    with bench.proxy:
        yield bench
    bench.pool.shutdown()
    assert not list((bench.root / "tmp").iterdir())


def describe(
    data: bytes, toc_digest: str | None = None, media_type: str = OCI_LAYER_GZIP, size: int | None = None
) -> Descriptor:
    annotations = {TOC_DIGEST_ANNOTATION: toc_digest} if toc_digest else {}
    return Descriptor(media_type, sha256(data), len(data) if size is None else size, annotations)


def describe_converted(converted: ConvertedLayer) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, converted.digest, converted.size, converted.annotations)


def forge(
    toc: bytes | list[dict[str, Any]], *, data: bytes = b"", kind: FooterKind = FooterKind.ESTARGZ
) -> tuple[bytes, Descriptor]:
    """A blob of some data and any TOC, and a manifest that vouches for it."""
    text = toc if isinstance(toc, bytes) else json.dumps({"version": 1, "entries": toc}).encode()
    info = tarfile.TarInfo(TOC_NAME)
    info.size = len(text)
    tar = info.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512) + bytes(1024)
    blob = data + gzip.compress(tar) + build_footer(kind, len(data))
    return blob, describe(blob, sha256(text))


def seen(layer: Layer, data: bytes) -> tuple[Any, dict[bytes, bytes]]:
    assert layer.lazy
    return looks(layer.index), contents(layer.index, data, compressed=True)


# --- formats


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1024}, {"chunk_size": 1024, "min_chunk_size": 5000}])
def test_estargz(bench: Bench, options: dict[str, Any]) -> None:
    data, converted = make_estargz(ENTRIES, **options)
    layer = bench.open(data, describe_converted(converted))
    assert seen(layer, data) == (expected(ENTRIES), payloads(ENTRIES))
    assert (layer.name, layer.format, layer.trust) == (converted.digest, Format.ESTARGZ, Trust.MANIFEST)
    assert (layer.size, layer.reason, layer.tar) == (len(data), None, None)
    assert 0 < layer.toc_size < len(data)
    assert len(bench.ranges) == 1
    assert bench.diff_ids_asked == 0


@pytest.mark.parametrize("media_type", [DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, OCI_LAYER_GZIP.upper()])
def test_media_types_of_gzip(bench: Bench, media_type: str) -> None:
    data, converted = make_estargz(ENTRIES)
    assert bench.open(data, describe(data, converted.toc_digest, media_type)).format is Format.ESTARGZ


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=trees())
def test_any_estargz(bench: Bench, entries: list[Entry]) -> None:
    for options in ({"chunk_size": 1024}, {"chunk_size": 1024, "min_chunk_size": 4096}):
        data, converted = make_estargz(entries, **options)
        layer = bench.open(data, describe_converted(converted))
        assert seen(layer, data) == (expected(entries), payloads(entries))


def test_stargz_is_fetched_whole(bench: Bench) -> None:
    """Nothing in the manifest vouches for its TOC."""
    data, converted = make_estargz(ENTRIES, kind=FooterKind.STARGZ)
    layer = bench.open(data, describe_converted(converted), converted.diff_id)
    assert (layer.format, layer.trust, layer.lazy) == (Format.TAR_GZIP, Trust.WHOLE, False)
    assert layer.reason == "no TOC that the manifest vouches for"
    assert looks(layer.index) == expected(ENTRIES)
    # not even its tail was asked for
    assert bench.ranges == [None]
    assert bench.diff_ids_asked == 1


@pytest.mark.parametrize("kind", [FooterKind.STARGZ, FooterKind.ESTARGZ])
def test_stargz_is_read_lazily_on_demand(bench: Bench, kind: FooterKind) -> None:
    data, converted = make_estargz(ENTRIES, kind=kind, chunk_size=1024)
    layer = bench.open(data, describe(data), allow_unverified=True)
    assert layer.trust is Trust.BACKGROUND
    assert layer.format.value == kind.name.lower()
    assert seen(layer, data) == (expected(ENTRIES), payloads(ENTRIES))
    assert converted.size == layer.size


def test_external_toc_is_fetched_whole(bench: Bench) -> None:
    data, converted = make_estargz(ENTRIES, kind=FooterKind.EXTERNAL_TOC)
    layer = bench.open(data, describe(data, converted.toc_digest), converted.diff_id)
    assert (layer.lazy, layer.reason) == (False, "its TOC lies in another image")
    # nothing in its tar says that it is an eStargz, so that the landmark is a file like any other
    assert set(looks(layer.index)) == {*expected(ENTRIES), b".no.prefetch.landmark"}


@pytest.mark.parametrize(
    ("pack", "media_type", "kind"),
    [
        (bytes, OCI_LAYER, Format.TAR),
        (gzip.compress, OCI_LAYER_GZIP, Format.TAR_GZIP),
        (zstandard.compress, OCI_LAYER_ZSTD, Format.TAR_ZSTD),
        # the bytes decide, whatever the manifest says
        (gzip.compress, OCI_LAYER_ZSTD, Format.TAR_GZIP),
        (zstandard.compress, OCI_LAYER_GZIP, Format.TAR_ZSTD),
        (bytes, OCI_LAYER_GZIP, Format.TAR),
    ],
)
def test_whole_layers(bench: Bench, pack: Callable[[bytes], bytes], media_type: str, kind: Format) -> None:
    tar = make_tar(ENTRIES)
    data = pack(tar)
    layer = bench.open(data, describe(data, None, media_type), sha256(tar))
    assert (layer.format, layer.trust, layer.size) == (kind, Trust.WHOLE, len(data))
    assert looks(layer.index) == expected(ENTRIES)
    assert layer.tar is not None
    assert contents(layer.index, layer.tar.read_bytes(), compressed=False) == payloads(ENTRIES)
    assert bench.ranges == [None]
    # from the cache, the second time
    again = bench.open(data, describe(data, None, media_type), sha256(tar))
    assert looks(again.index) == expected(ENTRIES)
    assert bench.ranges == []


def test_annotation_without_a_footer_is_fetched_whole(bench: Bench) -> None:
    tar = make_tar(ENTRIES)
    data = gzip.compress(tar)
    layer = bench.open(data, describe(data, sha256(b"toc")), sha256(tar))
    assert (layer.lazy, layer.reason) == (False, "no stargz footer")


def test_lost_names_are_read_from_the_tar(bench: Bench) -> None:
    """A producer in Go writes U+FFFD where a name is not UTF-8; the tar in the same blob knows better."""
    entries = [File("caf\udce9", b"x"), File("plain", b"y")]
    tar = make_tar(entries)
    toc = [{"name": name, "type": "reg", "size": 1, "offset": 1} for name in ("caf\ufffd", "plain")]
    text = json.dumps({"version": 1, "entries": toc}).encode()
    info = tarfile.TarInfo(TOC_NAME)
    info.size = len(text)
    data = gzip.compress(tar[:-1024])
    end = info.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512) + bytes(1024)
    blob = data + gzip.compress(end) + build_footer(FooterKind.ESTARGZ, len(data))
    layer = bench.open(blob, describe(blob, sha256(text)), sha256(tar[:-1024] + end))
    assert (layer.lazy, layer.reason) == (False, "the TOC has lost names that are not UTF-8")
    assert set(looks(layer.index)) == {b"", b"caf\xe9", b"plain"}


# --- how much it costs


def many(count: int) -> list[Entry]:
    return [File(f"file-{number:06}-{hashlib.sha256(b'%d' % number).hexdigest()}") for number in range(count)]


def test_toc_longer_than_the_first_guess_costs_a_second_request(bench: Bench) -> None:
    entries = many(2000)
    data, converted = make_estargz(entries)
    layer = bench.open(data, describe_converted(converted))
    assert layer.toc_size > 64 << 10
    assert looks(layer.index) == expected(entries)
    # and no byte twice
    tail = 64 << 10
    assert bench.ranges == [f"bytes=-{tail}", f"bytes={len(data) - layer.toc_size}-{len(data) - tail - 1}"]


def test_server_without_ranges(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    data, converted = make_estargz(ENTRIES)
    bench.proxy.use(IgnoreRange())
    layer = bench.open(data, describe_converted(converted))
    assert looks(layer.index) == expected(ENTRIES)
    assert "ignores Range" in caplog.text


# --- a blob that no manifest names


@pytest.mark.parametrize("kind", [FooterKind.STARGZ, FooterKind.ESTARGZ])
def test_single_stargz(bench: Bench, kind: FooterKind) -> None:
    data, _ = make_estargz(ENTRIES, kind=kind, chunk_size=1024)
    layer = bench.open_single(data)
    assert (layer.name, layer.trust) == (f"{bench.proxy.url}/layer", Trust.TOC)
    assert seen(layer, data) == (expected(ENTRIES), payloads(ENTRIES))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_single_tar(bench: Bench, pack: Callable[[bytes], bytes]) -> None:
    layer = bench.open_single(pack(make_tar(ENTRIES)))
    assert (layer.trust, layer.lazy, layer.reason) == (Trust.NONE, False, "no stargz footer")
    assert looks(layer.index) == expected(ENTRIES)


# --- lies


def test_should_fail_wrong_toc_digest(bench: Bench) -> None:
    data, _ = make_estargz(ENTRIES)
    url = f"{bench.proxy.url}/layer"
    with pytest.raises(
        DigestMismatch, match=f"^{url}: the TOC has the digest sha256:.*, not {sha256(b'x')}$"
    ):
        bench.open(data, describe(data, sha256(b"x")))


@pytest.mark.parametrize("toc_digest", ["sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "x"])
def test_should_fail_toc_digest_that_is_none(bench: Bench, toc_digest: str) -> None:
    data, _ = make_estargz(ENTRIES)
    with pytest.raises(FormatError, match=r"/layer: .* is not a digest"):
        bench.open(data, describe(data, toc_digest))


def test_should_fail_flipped_toc(bench: Bench) -> None:
    """Whichever byte of the TOC's member is flipped: nothing of it is believed."""
    data, converted = make_estargz(ENTRIES)
    footer = find_footer(data)
    assert footer is not None
    span = range(footer.toc_off + 10, len(data) - footer.size, 29)
    for at in span:
        flipped = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        with pytest.raises((FormatError, DigestMismatch), match=r"/layer: "):
            bench.open(flipped, describe_converted(converted))


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_should_fail_blob_of_another_size(bench: Bench, change: int) -> None:
    data, converted = make_estargz(ENTRIES)
    descriptor = describe(data, converted.toc_digest, size=len(data) + change)
    with pytest.raises(CrfsError, match=r"/layer"):
        bench.open(data, descriptor)


@pytest.mark.parametrize("left", [0, 10, 50, 51, 1000])
def test_should_fail_cut_blob(bench: Bench, left: int) -> None:
    data, converted = make_estargz(ENTRIES)
    with pytest.raises((TransportError, FormatError), match=r"/layer"):
        bench.open(data[:left], describe_converted(converted))


@pytest.mark.parametrize("toc_off", [0, 1, 100])
def test_should_fail_footer_that_points_elsewhere(bench: Bench, toc_off: int) -> None:
    data, converted = make_estargz(ENTRIES)
    data = data[:-51] + build_footer(FooterKind.ESTARGZ, toc_off)
    with pytest.raises(FormatError, match=r"/layer: "):
        bench.open(data, describe(data, converted.toc_digest))


@pytest.mark.parametrize("beyond", [0, 1, 51, 1 << 40, (1 << 64) - 10_000])
def test_should_fail_footer_that_points_behind_the_end(bench: Bench, beyond: int) -> None:
    data, converted = make_estargz(ENTRIES)
    data = data[:-51] + build_footer(FooterKind.ESTARGZ, len(data) - 51 + beyond)
    with pytest.raises(FormatError, match=r"/layer: the footer says that the TOC is at \d+, behind the end$"):
        bench.open(data, describe(data, converted.toc_digest))


def test_should_fail_toc_that_says_it_is_giant(bench: Bench) -> None:
    data, _ = make_estargz(ENTRIES)
    data = data[: -51 - 4] + struct.pack("<I", MAX_TOC_SIZE + 1) + data[-51:]
    with pytest.raises(FormatError, match=f"/layer: the TOC inflates to more than {MAX_TOC_SIZE} bytes$"):
        bench.open(data, describe(data, sha256(b"x")))


@pytest.mark.parametrize("size", [0, 1, 600, MAX_TOC_SIZE])
def test_should_fail_toc_of_another_size_than_it_says(bench: Bench, size: int) -> None:
    data, converted = make_estargz(ENTRIES)
    data = data[: -51 - 4] + struct.pack("<I", size) + data[-51:]
    with pytest.raises(FormatError, match=r"/layer: "):
        bench.open(data, describe(data, converted.toc_digest))


def test_should_fail_toc_bomb(bench: Bench) -> None:
    """It inflates to far more than its trailer says, of which no more than that is looked at."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    member = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
    member = member[:-4] + struct.pack("<I", 5000)
    data = member + build_footer(FooterKind.ESTARGZ, 0)
    with pytest.raises(FormatError, match=r"/layer: "):
        bench.open(data, describe(data, sha256(b"x")))


@pytest.mark.parametrize(
    "member", [b"", b"\x1f", b"not gzip" * 10, gzip.compress(b""), gzip.compress(b"x" * 600)]
)
def test_should_fail_member_that_is_no_toc(bench: Bench, member: bytes) -> None:
    data = b"data" * 10 + member + build_footer(FooterKind.ESTARGZ, 40)
    with pytest.raises(FormatError, match=r"/layer: "):
        bench.open(data, describe(data, sha256(b"x")))


def regular(**more: Any) -> dict[str, Any]:
    return {"name": "f", "type": "reg", "size": 10, "offset": 1, **more}


@pytest.mark.parametrize(
    ("toc", "message"),
    [
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(b"not JSON", "malformed", id="no-json"),
        pytest.param(b'{"version":1}', "malformed", id="no-entries"),
        pytest.param(b'{"version":2,"entries":[]}', "version 2, not 1", id="version"),
        pytest.param(b'{"version":1,"entries":[{"name":"\xff","type":"dir"}]}', "malformed", id="latin-1"),
        pytest.param(b'{"version":1,"entries":' + b"[" * 50_000, "malformed", id="deep"),
        pytest.param([regular(offset=1000)], "behind the layer's data", id="offset-behind-the-end"),
        pytest.param([regular(offset=100)], "behind the layer's data", id="offset-at-the-end"),
        pytest.param([regular(offset=-5)], "impossible place", id="negative-offset"),
        pytest.param([regular(offset=2**63)], "offset is impossible", id="absurd-offset"),
        pytest.param([regular(offset=2**65)], "impossible place", id="more-absurd-offset"),
        pytest.param([regular(size=2**62 + 1)], "impossible size", id="absurd-size"),
        pytest.param([regular(size=2**65)], "impossible number", id="more-absurd-size"),
        pytest.param([regular(uid=2**32)], "impossible number", id="absurd-owner"),
        pytest.param([regular(type="door")], "unknown type 'door'", id="type"),
        pytest.param(
            [regular(chunkSize=6), {"name": "f", "type": "chunk", "offset": 2, "chunkOffset": 5}],
            "overlaps",
            id="overlap",
        ),
        pytest.param([regular(chunkSize=6)], "chunks for 6 of the 10 bytes of 'f'", id="gap"),
        pytest.param([regular(chunkSize=11)], "outside of the file", id="long-chunk"),
        pytest.param([{"name": "h", "type": "hardlink", "linkName": "h"}], None, id="cycle-of-one"),
        pytest.param(
            [
                {"name": "a", "type": "hardlink", "linkName": "b"},
                {"name": "b", "type": "hardlink", "linkName": "a"},
            ],
            None,
            id="cycle-of-two",
        ),
    ],
)
def test_should_fail_toc_that_lies(
    bench: Bench, toc: bytes | list[dict[str, Any]], message: str | None
) -> None:
    data, descriptor = forge(toc, data=bytes(100))
    if message is None:
        # only merging finds out
        index = bench.open(data, descriptor).index
        with pytest.raises(FormatError, match="is not there"):
            looks(index)
    else:
        with pytest.raises(FormatError, match=f"^{bench.proxy.url}/layer: .*{message}"):
            bench.open(data, descriptor)
    assert bench.diff_ids_asked == 0


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/wasm",
        "text/plain",
        "",
    ],
)
def test_should_fail_what_is_no_layer(bench: Bench, media_type: str) -> None:
    data, converted = make_estargz(ENTRIES)
    with pytest.raises(UnsupportedError, match="is no layer that can be mounted"):
        bench.open(data, describe(data, converted.toc_digest, media_type))
    assert bench.ranges == []


def test_should_fail_layer_with_another_diff_id(bench: Bench) -> None:
    data = gzip.compress(make_tar(ENTRIES))
    with pytest.raises(DigestMismatch, match=r"/layer: the layer's tar is"):
        bench.open(data, describe(data), sha256(b"another"))


def test_should_fail_when_the_server_does(bench: Bench) -> None:
    data, converted = make_estargz(ENTRIES)
    bench.proxy.use(Status(status=500))
    with pytest.raises(TransportError, match=r"/layer: .*\(tried 4 times\)"):
        bench.open(data, describe_converted(converted))
    bench.proxy.use(CutBody(after=100, times=1))
    assert bench.open(data, describe_converted(converted)).lazy
