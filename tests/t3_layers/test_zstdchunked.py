"""zstd:chunked layers of each dialect, made by hand: opened lazily, verified, and refused where they lie."""

import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from crfs.errors import CrfsError, DigestMismatch, FormatError
from crfs.formats.zstdchunked import Dialect, Place, build_footer
from crfs.layers.layer import Format, Trust
from crfs.layers.unzstd import unzstd
from tests.support.layers import Entry, File
from tests.support.zstdchunked import Handmade, handmade
from tests.t3_layers.images import Built
from tests.t3_layers.images import Place as Server
from tests.t3_layers.looking import payloads

CHUNK = 1000
ENTRIES: list[Entry] = [
    File("small", b"small"),
    File("d/large", bytes(range(256)) * 20),
    File("sparse", b"x" * CHUNK + bytes(2 * CHUNK) + b"y" * 10),
    File("zeros", bytes(3 * CHUNK)),
    File("empty"),
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Server(tmp_path) as server:
        yield server


@pytest.fixture(params=Dialect)
def made(request: pytest.FixtureRequest) -> Handmade:
    return handmade(ENTRIES, request.param, chunk_size=CHUNK)


def dialect_of(made: Handmade) -> Dialect:
    return Dialect.PODMAN if b'"chunkType"' in made.json else Dialect.STARGZ


def push(server: Server, made: Handmade, annotations: dict[str, str]) -> None:
    server.push("web", Built(made.blob, made.descriptor(annotations), ""))


def read_all(server: Server, source: str = "web", **more: Any) -> dict[bytes, bytes]:
    with server.open(source, **more) as image:
        assert image.resolved.layers[0].lazy
        return {path: image.read(path) for path in payloads(ENTRIES)}


@pytest.mark.parametrize(
    "said",
    [{}, {"json_digest": True}, {"checksum": False, "json_digest": True}],
    ids=["packed", "both", "json"],
)
def test_is_read_lazily(server: Server, made: Handmade, said: dict[str, bool]) -> None:
    push(server, made, made.annotations(dialect_of(made), **said))
    with server.open("web") as image:
        (layer,) = image.resolved.layers
        assert (layer.format, layer.trust, layer.lazy) == (Format.ZSTD_CHUNKED, Trust.MANIFEST, True)
        # nothing but the TOC
        assert server.blob_ranges() == [f"bytes={made.place.off}-{made.place.off + made.place.size - 1}"]
        assert {path: image.read(path) for path in payloads(ENTRIES)} == payloads(ENTRIES)


def test_both_dialects_footers_are_found(server: Server, made: Handmade, tmp_path: Path) -> None:
    server.files["/layer"] = made.blob
    (tmp_path / "layer").write_bytes(made.blob)
    for source in (f"{server.proxy.url}/layer", f"file://{tmp_path}/layer"):
        assert read_all(server, source) == payloads(ENTRIES)


def test_digest_without_a_position(server: Server, made: Handmade) -> None:
    annotations = made.annotations(Dialect.STARGZ, json_digest=True)
    del annotations["io.containers.zstd-chunked.manifest-position"]
    push(server, made, annotations)
    assert read_all(server) == payloads(ENTRIES)


@pytest.mark.warns("nothing ties its TOC to the manifest")
def test_without_a_digest_it_is_read_lazily_on_demand(server: Server, made: Handmade) -> None:
    push(server, made, {})
    assert read_all(server, allow_unverified=True) == payloads(ENTRIES)


def test_zeros_are_not_fetched(server: Server) -> None:
    made = handmade(ENTRIES, Dialect.PODMAN, chunk_size=CHUNK)
    push(server, made, made.annotations(Dialect.PODMAN))
    with server.open("web") as image:
        server.forget()
        assert image.read(b"zeros") == bytes(3 * CHUNK)
        assert image.read(b"sparse", CHUNK, CHUNK) == bytes(CHUNK)
        assert server.blob_ranges() == []


@pytest.mark.warns("bytes .* to ")
@pytest.mark.warns("can't read 'd/large'")
def test_should_fail_chunk_that_was_changed(server: Server) -> None:
    made = handmade(ENTRIES, Dialect.STARGZ, chunk_size=CHUNK)
    at = json.loads(made.json)["entries"][1]["endOffset"] - 8
    forged = made.blob[:at] + bytes([made.blob[at] ^ 0xFF]) + made.blob[at + 1 :]
    annotations = made.annotations(Dialect.STARGZ)
    server.push("web", Built(forged, made.descriptor(annotations), ""))
    server.files[f"/v2/web/blobs/{made.descriptor({}).digest}"] = forged
    with server.open("web") as image:
        assert image.read(b"small") == b"small"
        with pytest.raises(OSError):
            image.read(b"d/large")


@pytest.mark.parametrize("which", ["packed", "json"])
def test_should_fail_toc_of_another_digest(server: Server, made: Handmade, which: str) -> None:
    other = handmade(ENTRIES[:1], dialect_of(made))
    annotations = made.annotations(dialect_of(made), json_digest=True)
    wrong = other.annotations(dialect_of(made), json_digest=True)
    key = next(key for key in annotations if key.endswith("checksum" if which == "packed" else "toc.digest"))
    push(server, made, {**annotations, key: wrong[key]})
    with pytest.raises(DigestMismatch, match="TOC has the digest"):
        read_all(server)


def test_should_fail_flipped_toc(server: Server, made: Handmade) -> None:
    """Nothing of a TOC is believed that was changed, wherever it was."""
    annotations = made.annotations(dialect_of(made), checksum=False, json_digest=True)
    for at in range(made.place.off, made.place.off + made.place.size, 37):
        flipped = made.blob[:at] + bytes([made.blob[at] ^ 0x10]) + made.blob[at + 1 :]
        push(server, dataclasses.replace(made, blob=flipped), annotations)
        with pytest.raises((DigestMismatch, FormatError)):
            read_all(server)


@pytest.mark.parametrize(
    "place",
    [Place(0, 10, 10), Place(7, 10, 10), Place(8, 0, 10), Place(1 << 40, 10, 10), Place(8, 1 << 40, 10)],
)
def test_should_fail_toc_that_lies_nowhere(server: Server, made: Handmade, place: Place) -> None:
    server.files["/layer"] = made.blob + build_footer(dialect_of(made), place)
    with pytest.raises(CrfsError, match="/layer: "):
        read_all(server, f"{server.proxy.url}/layer")


@pytest.mark.parametrize("size", [0, 5, 1 << 40])
def test_should_fail_toc_of_another_size(server: Server, made: Handmade, size: int) -> None:
    place = msgspec.structs.replace(made.place, unpacked_size=size)
    server.files["/layer"] = made.blob + build_footer(dialect_of(made), place)
    with pytest.raises(FormatError, match=r"/layer: the TOC (does not inflate|inflates) to"):
        read_all(server, f"{server.proxy.url}/layer")


# --- frames


@pytest.mark.parametrize("pledged", [True, False], ids=["size", "no-size"])
@pytest.mark.parametrize("extra", [0, 1, 2 << 20])
def test_frame_that_holds_more(pledged: bool, extra: int) -> None:
    data = bytes(range(256)) * 100
    writer = zstandard.ZstdCompressor(write_content_size=pledged)
    frame = writer.compress(data + bytes(extra)) + zstandard.compress(b"the next one")
    assert unzstd(frame, len(data)) == data
    assert unzstd(memoryview(frame), 10) == data[:10]


@pytest.mark.parametrize(
    "frame", [b"", b"\x28\xb5\x2f\xfd", b"no frame at all", zstandard.compress(b"short")]
)
def test_should_fail_frame_that_is_damaged(frame: bytes) -> None:
    with pytest.raises(FormatError, match="a zstd frame"):
        unzstd(frame, 100)


def test_should_fail_frame_that_claims_to_be_giant() -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 50) + zstandard.compress(b"")[5:]
    with pytest.raises(FormatError, match="a zstd frame"):
        unzstd(frame, 100)
