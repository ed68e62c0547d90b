"""Layers that are fetched whole: every compression, wrong digests, hostile streams, nothing left behind."""

import asyncio
import gzip
import hashlib
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crfs.blobs.blob import Blob, Sink
from crfs.blobs.http import Http
from crfs.blobs.localfile import FileBlob
from crfs.blobs.store import Store, open_store
from crfs.blobs.url import UrlBlob
from crfs.errors import CrfsError, DigestMismatch, FormatError, NotFoundError
from crfs.formats.reference import parse_url
from crfs.layers.ingest import Ingested, fetch_whole, open_whole
from crfs.layers.layer import Format, Layer, Trust
from tests.support.faults import CutBody, FaultProxy, Slow, Status
from tests.support.fetching import with_http
from tests.support.layers import Dir, File, make_tar
from tests.t3_layers.looking import contents, expected, looks

ENTRIES = [Dir("d"), File("d/f", random.Random(1).randbytes(100_000)), File("g", b"text" * 10_000)]
TAR = make_tar(ENTRIES)
GZIP = gzip.compress(TAR, mtime=0)
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(TAR)
HALF = len(TAR) // 2
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"abcde"


def sha256(data: bytes | bytearray) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha512(data: bytes) -> str:
    return f"sha512:{hashlib.sha512(data).hexdigest()}"


DIFF_ID = sha256(TAR)


class PiecedBlob:
    """Bytes that arrive in given pieces."""

    name = "pieces"

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def iter_body(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def fetch_range(self, start: int, end: int) -> bytes:
        raise NotImplementedError

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        raise NotImplementedError

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Cache:
    """A store in a directory of its own, and a pool."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = open_store(root)
        self.pool = ThreadPoolExecutor(2)

    def fetch(self, blob: Blob | bytes, digest: str | None = None, diff_id: str | None = None) -> Ingested:
        found = PiecedBlob(blob) if isinstance(blob, bytes) else blob
        return asyncio.run(fetch_whole(found, digest, diff_id, self.store, self.pool))

    def open(self, blob: Blob | bytes, digest: str | None = None, diff_id: str | None = None) -> Layer:
        found = PiecedBlob(blob) if isinstance(blob, bytes) else blob
        return asyncio.run(open_whole(found, digest, diff_id, "because", self.store, self.pool))

    def files(self) -> list[str]:
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] not in ("sessions", "believed"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.pool.shutdown()
    assert not [name for name in cache.files() if name.startswith("tmp/")]


@pytest.mark.parametrize(
    ("blob", "kind"),
    [
        pytest.param(TAR, Format.TAR, id="tar"),
        pytest.param(GZIP, Format.TAR_GZIP, id="gzip"),
        pytest.param(gzip.compress(TAR, 0), Format.TAR_GZIP, id="gzip-stored"),
        pytest.param(
            gzip.compress(TAR[:HALF]) + gzip.compress(TAR[HALF:]), Format.TAR_GZIP, id="gzip-members"
        ),
        pytest.param(
            gzip.compress(b"") + GZIP + gzip.compress(b""), Format.TAR_GZIP, id="gzip-empty-members"
        ),
        pytest.param(GZIP + bytes(1), Format.TAR_GZIP, id="gzip-zero"),
        pytest.param(GZIP + bytes(10_000), Format.TAR_GZIP, id="gzip-zeros"),
        pytest.param(GZIP + bytes(100) + gzip.compress(b""), Format.TAR_GZIP, id="gzip-zeros-between"),
        pytest.param(ZSTD, Format.TAR_ZSTD, id="zstd"),
        pytest.param(
            zstandard.compress(TAR[:HALF]) + SKIPPABLE + zstandard.compress(TAR[HALF:]) + SKIPPABLE,
            Format.TAR_ZSTD,
            id="zstd-frames",
        ),
    ],
)
def test_every_compression(cache: Cache, blob: bytes, kind: Format) -> None:
    whole = cache.fetch(blob, sha256(blob), DIFF_ID)
    assert (whole.format, whole.diff_id, whole.size) == (kind, DIFF_ID, len(blob))
    assert whole.tar.read_bytes() == TAR
    assert cache.files() == [f"layers/{DIFF_ID.replace(':', '-')}"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["tar", "gzip", "gzip-zeros", "zstd"]),
    sizes=st.lists(st.integers(0, 60_000), max_size=20),
)
@example(kind="gzip-zeros", sizes=[len(GZIP), 1, 1, 5_000])
@example(kind="gzip-zeros", sizes=[len(GZIP) - 3, 10, 1])
@example(kind="zstd", sizes=[1] * 20)
def test_pieces_of_any_size(cache: Cache, kind: str, sizes: list[int]) -> None:
    blob = {"tar": TAR, "gzip": GZIP, "gzip-zeros": GZIP + bytes(20_000), "zstd": ZSTD}[kind]
    pieces, at = [], 0
    for size in sizes:
        pieces.append(blob[at : at + size])
        at += size
    pieced = PiecedBlob(*pieces, blob[at:])
    assert cache.fetch(pieced, sha256(blob), DIFF_ID).tar.read_bytes() == TAR


@pytest.mark.parametrize("blob", [TAR, GZIP, ZSTD], ids=["tar", "gzip", "zstd"])
def test_digests_of_another_algorithm(cache: Cache, blob: bytes) -> None:
    whole = cache.fetch(blob, sha512(blob), sha512(TAR))
    assert whole.diff_id == sha512(TAR)
    assert cache.store.find_layer(sha512(TAR)) == whole.tar


def test_no_digest_at_all(cache: Cache) -> None:
    assert cache.fetch(GZIP).diff_id == DIFF_ID


def test_opened_layer(cache: Cache) -> None:
    layer = cache.open(GZIP, sha256(GZIP), DIFF_ID)
    assert (layer.name, layer.format, layer.trust, layer.reason) == (
        sha256(GZIP),
        Format.TAR_GZIP,
        Trust.WHOLE,
        "because",
    )
    assert not layer.lazy
    assert looks(layer.index) == expected(ENTRIES)
    assert contents(layer.index, TAR, compressed=False)[b"d/f"] == ENTRIES[1].payload()


def test_second_time_it_is_not_fetched(cache: Cache) -> None:
    cache.open(GZIP, sha256(GZIP), DIFF_ID)
    layer = cache.open(PiecedBlob(b"nobody should read this"), sha256(GZIP), DIFF_ID)
    assert looks(layer.index) == expected(ENTRIES)


def test_blob_without_a_name_is_trusted_by_nobody(cache: Cache) -> None:
    layer = cache.open(GZIP)
    assert (layer.name, layer.trust, layer.size) == ("pieces", Trust.NONE, len(GZIP))


# --- what is not what it should be


@pytest.mark.parametrize("blob", [TAR, GZIP, ZSTD], ids=["tar", "gzip", "zstd"])
def test_should_fail_wrong_digest(cache: Cache, blob: bytes) -> None:
    with pytest.raises(DigestMismatch, match=r"^pieces: the layer's bytes do not match its digest$"):
        cache.fetch(blob, sha256(b"another"), DIFF_ID)
    assert cache.files() == []


@pytest.mark.parametrize("blob", [TAR, GZIP, ZSTD], ids=["tar", "gzip", "zstd"])
def test_should_fail_wrong_diff_id(cache: Cache, blob: bytes) -> None:
    wrong = sha256(b"another")
    with pytest.raises(
        DigestMismatch, match=f"^pieces: the layer's tar is {DIFF_ID}, .* config says {wrong}$"
    ):
        cache.fetch(blob, sha256(blob), wrong)
    assert cache.files() == []


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        pytest.param(GZIP[:-1], "cut short", id="gzip-cut-in-the-trailer"),
        pytest.param(GZIP[:20_000], "cut short", id="gzip-cut"),
        pytest.param(GZIP[:5], "cut short", id="gzip-cut-in-the-header"),
        pytest.param(GZIP + gzip.compress(TAR)[:20], "cut short", id="gzip-cut-second-member"),
        pytest.param(GZIP + b"garbage", "tar.gzip stream is damaged", id="gzip-garbage"),
        pytest.param(GZIP[:-6] + b"\0\0" + GZIP[-4:], "tar.gzip stream is damaged", id="gzip-checksum"),
        pytest.param(GZIP[:100] + bytes(100) + GZIP[200:], "tar.gzip stream is damaged", id="gzip-damaged"),
        pytest.param(ZSTD + b"garbage!", "tar.zstd stream is damaged", id="zstd-garbage"),
        pytest.param(ZSTD[:-1] + bytes([ZSTD[-1] ^ 1]), "tar.zstd stream is damaged", id="zstd-checksum"),
    ],
)
def test_should_fail_damaged_streams_that_match_their_digest(cache: Cache, blob: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^pieces: .*{message}"):
        cache.fetch(blob, sha256(blob), DIFF_ID)
    assert cache.files() == []


@pytest.mark.parametrize("size", [10, 1000, len(ZSTD) - 50])
def test_should_fail_cut_zstd(cache: Cache, size: int) -> None:
    with pytest.raises(DigestMismatch, match=r"^pieces: the layer's tar is"):
        cache.fetch(ZSTD[:size], sha256(ZSTD[:size]), DIFF_ID)


@pytest.mark.parametrize("size", [10, 1000, 60_000])
def test_should_fail_cut_zstd_without_any_digest(cache: Cache, size: int) -> None:
    with pytest.raises(FormatError, match=r"^pieces: "):
        cache.open(ZSTD[:size])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["tar", "gzip", "zstd"]), place=st.floats(0, 1, exclude_max=True))
def test_should_fail_any_flipped_byte(cache: Cache, kind: str, place: float) -> None:
    blob = bytearray({"tar": TAR, "gzip": GZIP, "zstd": ZSTD}[kind])
    digest = sha256(blob)
    blob[int(len(blob) * place)] ^= 0x40
    with pytest.raises((DigestMismatch, FormatError), match=r"^pieces: "):
        cache.fetch(bytes(blob), digest, DIFF_ID)
    assert cache.files() == []


@pytest.mark.parametrize("blob", [b"", b"\x1f", b"\x1f\x8b\x08", b"abc", b"<html>not found</html>" * 100])
def test_should_fail_what_is_no_layer(cache: Cache, blob: bytes) -> None:
    with pytest.raises(FormatError, match=r"^pieces: "):
        cache.open(blob)


SIZE = 100 << 20


def bomb(kind: str) -> bytes:
    """A small stream that inflates to SIZE bytes of zeros."""
    if kind == "gzip":
        return gzip.compress(bytes(SIZE))
    return zstandard.ZstdCompressor().compress(bytes(SIZE))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_should_fail_bomb_without_filling_the_memory(cache: Cache, kind: str) -> None:
    blob = bomb(kind)
    assert len(blob) < SIZE // 900
    tracemalloc.start()
    try:
        with pytest.raises(DigestMismatch):
            cache.fetch(blob, sha256(blob), DIFF_ID)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert cache.files() == []


# --- over the network


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy({"/layer": GZIP}) as served:
        yield served


def fetch(cache: Cache, proxy: FaultProxy, seconds: float = 20) -> Ingested:
    async def work(http: Http) -> Ingested:
        blob = UrlBlob(parse_url(f"{proxy.url}/layer"), http, verify=False)
        whole = fetch_whole(blob, sha256(GZIP), DIFF_ID, cache.store, cache.pool)
        return await asyncio.wait_for(whole, seconds)

    return with_http(work)


def test_cut_transfer_goes_on(cache: Cache, proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=50_000, times=2))
    assert fetch(cache, proxy).tar.read_bytes() == TAR
    assert len(proxy.requests) == 3


def test_should_fail_layer_that_is_gone(cache: Cache, proxy: FaultProxy) -> None:
    proxy.use(CutBody(after=50_000, times=1), Status(status=404, skip=1))
    with pytest.raises(NotFoundError, match=f"{proxy.url}/layer"):
        fetch(cache, proxy)
    assert cache.files() == []


def test_given_up_transfer_leaves_nothing(cache: Cache, proxy: FaultProxy) -> None:
    proxy.use(Slow(seconds=0.1))
    with pytest.raises(TimeoutError):
        fetch(cache, proxy, 0.3)
    assert cache.files() == []


def test_should_fail_file_that_shrinks(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(GZIP)
    blob = FileBlob(str(path))
    asyncio.run(blob.fetch_tail(1))
    path.write_bytes(GZIP[:1000])
    with pytest.raises(CrfsError, match=f"^{path}: "):
        cache.fetch(blob, sha256(GZIP), DIFF_ID)
    blob.close()
    assert cache.files() == []
