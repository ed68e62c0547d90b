"""Chunks on their way from a registry: one request for all who wait, damage, failures, and the end."""

import contextlib
import errno
import gc
import gzip
import hashlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crfs._native.index import Chunk
from crfs.cli import compose
from crfs.errors import DigestMismatch, FormatError
from crfs.formats.footer import FooterKind
from crfs.layers.codec import decode_member
from tests.support.faults import CutBody, FlipByte, Slow, Stall, Status
from tests.support.layers import Entry, File
from tests.t3_layers.images import Built, Image, Place, forged, lazy, whole

RANDOM = random.Random(1)
# members that do not compress, so that their sizes are known
LARGE = RANDOM.randbytes(300_000)
SMALL = {b"d/%d" % number: RANDOM.randbytes(1000 + number) for number in range(10)}
FILES: list[Entry] = [File(name.decode(), data) for name, data in SMALL.items()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Place(tmp_path) as place:
        yield place


def open_image(place: Place, *layers: Built) -> Image:
    """Pushed and opened, and what that took forgotten."""
    place.push("web", *layers)
    image = place.open("web")
    place.forget()
    return image


def should_fail(image: Image, path: bytes, *, off: int = 0, size: int = 10) -> None:
    with pytest.raises(OSError) as caught:
        image.read(path, off, size)
    assert caught.value.errno == errno.EIO


def in_threads(count: int, work: Callable[[], bytes]) -> list[bytes]:
    barrier = threading.Barrier(count)

    def run(_: int) -> bytes:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# --- one request


def test_many_readers_share_one_request(place: Place) -> None:
    with open_image(place, lazy([File("f", LARGE)])) as image:
        place.proxy.use(Slow(seconds=0.02))
        assert in_threads(16, lambda: image.read(b"f")) == [LARGE] * 16
        assert len(place.blob_ranges()) == 1


def test_many_readers_of_many_chunks_ask_for_no_byte_twice(place: Place) -> None:
    with open_image(place, lazy([File("f", LARGE)], chunk_size=10_000)) as image:
        place.proxy.use(Slow(seconds=0.001))
        parts = [(at, 7_000) for at in range(0, len(LARGE), 7_000)] * 3
        RANDOM.shuffle(parts)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda part: image.read(b"f", *part), parts))
        assert found == [LARGE[at : at + size] for at, size in parts]
        image.settle()
        asked = place.blob_spans()
        assert all(one[1] < two[0] for one, two in itertools.pairwise(asked))


def test_neighbours_in_a_directory_travel_along(place: Place) -> None:
    with open_image(place, lazy(FILES)) as image:
        assert image.read(b"d/5") == SMALL[b"d/5"]
        image.settle()
        assert len(place.blob_ranges()) == 1
        for name, data in SMALL.items():
            assert image.read(name) == data
        assert len(place.blob_ranges()) == 1


def test_all_that_lies_in_a_member_is_kept(place: Place) -> None:
    """Whichever of them was asked for: they share an offset, and differ in innerOffset."""
    files = [File(f"{number}/f", RANDOM.randbytes(200_000)) for number in range(5)]
    for wanted in (0, 3, 4):
        place.cache = place.cache.with_name(f"cache-{wanted}")
        with open_image(place, lazy(files, min_chunk_size=2_000_000)) as image:
            assert image.read(files[wanted].path, 100, 10) == files[wanted].payload()[100:110]
            for file in files:
                assert image.read(file.path) == file.payload()
            assert len(place.blob_ranges()) == 1


def test_what_is_on_disk_is_not_fetched(place: Place) -> None:
    layer = lazy([File("f", LARGE), *FILES], chunk_size=50_000)
    with open_image(place, layer) as image:
        assert image.read(b"f") == LARGE
        image.settle()
    with open_image(place, layer) as image:
        assert image.read(b"f") == LARGE
        assert place.blob_ranges() == []


def test_what_is_on_disk_serves_other_images(place: Place) -> None:
    with open_image(place, lazy([File("f", LARGE)])) as image:
        assert image.read(b"f") == LARGE
        image.settle()
    with open_image(place, lazy([File("another/name", LARGE)])) as image:
        assert image.read(b"another/name") == LARGE
        assert place.blob_ranges() == []


@pytest.mark.warns("does not match its name")
def test_what_is_damaged_on_disk_is_fetched_again(place: Place) -> None:
    layer = lazy([File("f", LARGE)])
    with open_image(place, layer) as image:
        image.read(b"f")
        image.settle()
    digest = hashlib.sha256(LARGE).hexdigest()
    path = place.cache / "chunks" / digest[:2] / digest
    path.write_bytes(LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    with open_image(place, layer) as image:
        assert image.read(b"f", 0, 10) == LARGE[:10]
        assert len(place.blob_ranges()) == 1
        image.settle()
    assert path.read_bytes() == LARGE


# --- damage on the way


def test_flipped_byte_is_fetched_again(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    layer = lazy([File("f", LARGE)])
    with open_image(place, layer) as image:
        place.proxy.use(FlipByte(at=1000, times=1))
        assert image.read(b"f") == LARGE
        assert len(place.blob_ranges()) == 2
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"{place.proxy.host}/web@{layer.descriptor.digest}: bytes " in record.getMessage()
        image.settle()
        assert image.read(b"f") == LARGE


@pytest.mark.parametrize("fault", [FlipByte(at=1000), FlipByte(at=-6)], ids=["data", "checksum"])
def test_should_fail_byte_that_is_flipped_each_time(
    place: Place, caplog: pytest.LogCaptureFixture, fault: FlipByte
) -> None:
    layer = lazy([File("d/f", LARGE)])
    with open_image(place, layer) as image:
        place.proxy.use(fault)
        should_fail(image, b"d/f", off=5)
        assert len(place.blob_ranges()) == 2
        (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        # the file, the layer, the registry
        assert said.startswith(f"can't read 'd/f' at 5 (layer {layer.descriptor.digest}, ")
        assert f"from {place.proxy.host}/web@" in said
        # nothing of it was kept, and the next read tries again
        assert list((place.cache / "chunks").rglob("*")) == []
        place.proxy.use()
        assert image.read(b"d/f") == LARGE


@pytest.mark.warns(r"/web@sha256:\w+: bytes \d+ to \d+: ")
def test_only_the_damaged_member_is_fetched_again(place: Place) -> None:
    with open_image(place, lazy(FILES)) as image:
        # the middle of a request for ten members
        place.proxy.use(FlipByte(at=5_000, times=1))
        assert image.read(b"d/0") == SMALL[b"d/0"]
        for name, data in SMALL.items():
            assert image.read(name) == data
        first, second = (tuple(map(int, text[6:].split("-"))) for text in place.blob_ranges())
        assert first[1] - first[0] > 9_000
        assert first[0] <= second[0] <= second[1] <= first[1]
        assert second[1] - second[0] < 2_500


def test_damaged_neighbour_harms_nobody_else(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with open_image(place, lazy(FILES)) as image:
        place.proxy.use(FlipByte(at=5_000, times=1), FlipByte(at=100, skip=1))
        assert image.read(b"d/0") == SMALL[b"d/0"]
        wait_for(lambda: len(caplog.records) == 2)
        image.settle()
        place.proxy.use()
        for name, data in SMALL.items():
            assert image.read(name) == data
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.warns(r"compressed member is damaged")
def test_chunks_without_a_digest_are_held_to_their_checksum(place: Place) -> None:
    """An old stargz has none for the chunks of a large file."""
    place.files["/layer"] = lazy([File("f", LARGE)], kind=FooterKind.STARGZ, chunk_size=100_000).data
    with place.open(f"{place.proxy.url}/layer") as image:
        place.forget()
        place.proxy.use(FlipByte(at=1000, times=1))
        assert image.read(b"f") == LARGE


def test_broken_transfer_is_nobodys_business(place: Place) -> None:
    with open_image(place, lazy([File("f", LARGE)])) as image:
        place.proxy.use(CutBody(after=100_000, times=2), Status(status=503, skip=3, times=1))
        assert image.read(b"f") == LARGE


@pytest.mark.parametrize("status", [404, 403, 500, 429])
def test_should_fail_when_the_registry_does(
    place: Place, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    with open_image(place, lazy([File("f", LARGE)])) as image:
        place.proxy.use(Status(status=status))
        should_fail(image, b"f")
        assert "can't read 'f' at 0 (layer sha256:" in caplog.text
        assert str(status) in caplog.text
        place.proxy.use()
        assert image.read(b"f") == LARGE


# --- TOCs that lie, although the manifest vouches for them


def entry(size: int, content: bytes, **more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"name": "f", "type": "reg", "size": size, "offset": 10, "chunkDigest": digest, **more}


@pytest.mark.parametrize(
    ("toc", "reason"),
    [
        (entry(4, b"good"), "do not match their digest"),
        (entry(3, b"evil"), "do not match their digest"),
        (entry(5, b"evil!"), "ends after 4 of 5 bytes"),
        (entry(4, b"good", innerOffset=1), "ends after 4 of 5 bytes"),
        (entry(2, b"go", innerOffset=2), "do not match their digest"),
        (entry(1 << 30, b"evil"), "as large as its TOC says"),
        (entry(1 << 61, b"evil"), "."),
        (entry(4, b"evil", innerOffset=1 << 61), "."),
        (entry(4, b"evil", offset=11), "damaged"),
    ],
)
def test_should_fail_chunks_that_are_not_what_the_toc_says(
    place: Place, caplog: pytest.LogCaptureFixture, toc: dict[str, Any], reason: str
) -> None:
    layer = forged(bytes(10) + gzip.compress(b"evil"), toc)
    with open_image(place, layer) as image:
        should_fail(image, b"f", size=4)
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(said) == 1
        assert f"can't read 'f' at 0 (layer {layer.descriptor.digest}, " in said[0]
        assert reason in said[0]
        assert list((place.cache / "chunks").rglob("*")) == []


def test_member_that_holds_more_is_cut_where_the_chunk_ends(place: Place) -> None:
    """Padding and the next file's header usually follow."""
    layer = forged(bytes(10) + gzip.compress(b"good" + bytes(3 << 20)), entry(4, b"good"))
    with open_image(place, layer) as image:
        assert image.read(b"f") == b"good"


# --- decoding by itself


def chunk(number: int, inner_off: int, data: bytes, digest_of: bytes | None = None) -> Chunk:
    digest = hashlib.sha256(data if digest_of is None else digest_of).digest()
    return Chunk(number, 0, len(data), 0, 0, 100, inner_off, digest)


def test_decode_takes_a_member_apart() -> None:
    member = [chunk(0, 0, b"aaa"), chunk(1, 512, b"bbbb"), chunk(2, 600, b"c")]
    whole = b"aaa".ljust(512, b"\0") + b"bbbb".ljust(88, b"\0") + b"c" + b"padding"
    data = memoryview(gzip.compress(whole))
    assert decode_member(member, data) == [b"aaa", b"bbbb", b"c"]
    assert decode_member(member[1:2], data) == [b"bbbb"]


def test_should_fail_decode_one_wrong_chunk_of_three() -> None:
    member = [chunk(0, 0, b"aaa"), chunk(1, 3, b"bbb", b"bbB"), chunk(2, 6, b"ccc")]
    with pytest.raises(DigestMismatch):
        decode_member(member, memoryview(gzip.compress(b"aaabbbccc")))


def test_should_fail_decode_a_member_that_ends_early() -> None:
    member = [chunk(0, 0, b"aaa"), chunk(1, 3, b"bbb")]
    with pytest.raises(FormatError, match="ends after 5 of 6 bytes"):
        decode_member(member, memoryview(gzip.compress(b"aaabb")))


# --- the end


def reading(image: Image, path: bytes) -> tuple[threading.Thread, list[int | None]]:
    """A thread that reads, and how that will end."""
    ends: list[int | None] = []

    def run() -> None:
        try:
            image.read(path, 0, 10)
        except OSError as error:
            ends.append(error.errno)
        else:
            ends.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ends


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.warns("can't read '[fg]' at 0 .*: the mount is going away")
def test_stop_wakes_all_who_wait(place: Place) -> None:
    with open_image(
        place, lazy([File("f", LARGE), File("g", LARGE[::-1]), File("e/cached", b"x" * 100)])
    ) as image:
        assert image.read(b"e/cached") == b"x" * 100
        place.forget()
        place.proxy.use(Stall())
        readers = [reading(image, name) for name in (b"f", b"g", b"f")]
        wait_for(lambda: len(place.blob_ranges()) >= 1)
        before = time.monotonic()
        image.reader.stop()
        for thread, ends in readers:
            thread.join(5)
            assert ends == [errno.EIO]
        # long before the transfer itself would have been given up
        assert time.monotonic() - before < 1
        # what is here is still read; nothing new is waited for
        assert image.read(b"e/cached") == b"x" * 100
        should_fail(image, b"g")
        assert time.monotonic() - before < 1.3
        place.proxy.release()


def test_nobody_who_has_given_up_is_kept(place: Place) -> None:
    with open_image(place, lazy([File("f", LARGE)])) as image:
        place.proxy.use(Stall())
        inode = image.find(b"f")
        before = time.monotonic()
        with pytest.raises(InterruptedError):
            image.reader.read(inode, 0, 10, lambda: True)
        assert time.monotonic() - before < 1
        place.proxy.use()
        assert image.read(b"f") == LARGE


@pytest.mark.warns("nothing arrived within 1 seconds")
def test_should_fail_when_nothing_arrives_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "READ_SECONDS", 0.6)
    with open_image(place, lazy([File("f", LARGE)])) as image:
        place.proxy.use(Slow(seconds=0.05))
        should_fail(image, b"f")
        # it goes on arriving, for whoever comes next
        wait_for(lambda: image.reader.find_cached(image.find(b"f"), 0, 10) == LARGE[:10])


def test_nothing_is_left_open(place: Place) -> None:
    """No thread and no descriptor."""
    layer = lazy([File("f", LARGE)])
    place.push("web", layer)
    place.open("web").__exit__(None, None, None)
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with place.open("web") as image:
            image.read(b"f", 0, 10)
    # its tree is mapped for as long as somebody knows it
    del image
    gc.collect()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("layer", [lazy, whole], ids=["lazy", "whole"])
def test_damage_on_the_way_of_what_opens_an_image(
    place: Place, path: str, layer: Callable[..., Built]
) -> None:
    """Manifest, TOC and whole layers: asked for again, once."""
    digest = place.push("web", layer([File("f", LARGE)]))
    place.proxy.use(FlipByte(path=path, at=-30, times=1))
    with place.open(f"web@{digest}") as image:
        assert image.read(b"f") == LARGE
        assert sum(path in seen.path for seen in place.proxy.requests) >= 2


# --- several on one cache


def test_mounts_that_share_a_cache_ask_for_no_byte_twice(place: Place) -> None:
    files = [File(f"d{number}/f", RANDOM.randbytes(120_000)) for number in range(8)]
    place.push("web", lazy(files, chunk_size=40_000))
    place.open("web").__exit__(None, None, None)
    place.forget()
    place.proxy.use(Slow(seconds=0.01))
    with contextlib.ExitStack() as stack:
        images = [stack.enter_context(place.open("web")) for _ in range(4)]

        def read(number: int) -> None:
            for file in files[number:] + files[:number]:
                assert images[number].read(file.path) == file.payload()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))
        for image in images:
            image.settle()
    asked = place.blob_spans()
    assert all(one[1] < two[0] for one, two in itertools.pairwise(asked)), asked


@pytest.mark.warns("can't read 'f' at 0 .*: the mount is going away")
def test_what_another_mount_fails_to_fetch_is_fetched(place: Place) -> None:
    place.push("web", lazy([File("f", LARGE)]))
    place.open("web").__exit__(None, None, None)
    place.proxy.use(Slow(seconds=0.02))
    one, two = place.open("web"), place.open("web")
    with two:
        with one:
            thread, _ = reading(one, b"f")
            wait_for(lambda: bool(place.blob_ranges()))
            other, ends = reading(two, b"f")
        thread.join(10)
        other.join(10)
        assert ends == [None]
        assert two.read(b"f") == LARGE
