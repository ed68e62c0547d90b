"""Reading files of a merged tree: any span of any file, holes, caches, and layers that lose their credit."""

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfs.formats.digest import sha256_digest
from crfs.formats.footer import FooterKind
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_LAYER
from tests.support.faults import Slow, Status
from tests.support.layers import Entry, File, Hardlink
from tests.t3_layers.images import Built, Image, Place, lazy, whole, without_annotations

CHUNK = 1024
SIZES = [0, 1, 2, 511, 512, 513, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1, 20_000]
CONTENT = random.Random(1).randbytes(20_000)


def files(prefix: str) -> list[Entry]:
    """One file of each size, none like another."""
    return [
        File(f"{prefix}/{size}", CONTENT[number : number + size] if size < 20_000 else CONTENT[::-1])
        for number, size in enumerate(SIZES)
    ]


LAYERS = {
    "chunks": lazy(files("chunks"), chunk_size=CHUNK),
    "members": lazy(files("members"), chunk_size=CHUNK, min_chunk_size=5 * CHUNK),
    "large": lazy(files("large")),
    "gzip": whole(files("gzip")),
    "tar": whole(files("tar"), bytes, OCI_LAYER),
}
WANTED = {entry.path: entry.payload() for name in LAYERS for entry in files(name)}


@pytest.fixture(scope="module")
def module_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Place(tmp_path_factory.mktemp("reader")) as place:
        place.push("all", *LAYERS.values())
        yield place


@pytest.fixture(scope="module")
def image(module_place: Place) -> Iterator[Image]:
    with module_place.open("all") as image:
        yield image


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


spans = st.tuples(
    st.sampled_from(sorted(WANTED)),
    st.one_of(st.integers(0, 25_000), st.sampled_from([0, *SIZES])),
    st.one_of(st.integers(0, 8000), st.sampled_from([0, 1, CHUNK, 1 << 17, 1 << 40, (1 << 63) - 1])),
)


@settings(max_examples=400, deadline=None)
@given(span=spans)
def test_any_span_of_any_file(image: Image, span: tuple[bytes, int, int]) -> None:
    path, off, size = span
    assert image.read(path, off, size) == WANTED[path][off : off + size]
    cached = image.reader.find_cached(image.find(path), off, size)
    assert cached in (None, WANTED[path][off : off + size])


@settings(max_examples=12, deadline=None)
@given(asked=st.lists(spans, min_size=1, max_size=15))
def test_any_order_with_nothing_cached(
    module_place: Place,
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[bytes, int, int]],
) -> None:
    with module_place.open("all", cache=tmp_path_factory.mktemp("cache")) as image:
        for path, off, size in asked:
            assert image.read(path, off, size) == WANTED[path][off : off + size]


def test_every_file_from_begin_to_end(image: Image) -> None:
    for path, content in WANTED.items():
        for step in (100, CHUNK, 4096):
            parts = [image.read(path, off, step) for off in range(0, len(content), step)]
            assert b"".join(parts) == content
        assert image.read(path, len(content), 100) == b""
        assert image.read(path, 1 << 62, 100) == b""


def test_second_read_sends_nothing(place: Place) -> None:
    place.push("web", *LAYERS.values())
    with place.open("web") as image:
        for path, content in WANTED.items():
            assert image.read(path) == content
        place.forget()
        for path, content in WANTED.items():
            assert image.read(path) == content
        assert place.proxy.requests == []


def test_found_in_memory_once_it_was_read(place: Place) -> None:
    place.push("web", LAYERS["chunks"])
    with place.open("web") as image:
        inode = image.find(b"chunks/3072")
        assert image.reader.find_cached(inode, 10, 20) is None
        assert image.read(b"chunks/3072") == WANTED[b"chunks/3072"]
        assert image.reader.find_cached(inode, 10, 20) == WANTED[b"chunks/3072"][10:30]
        assert image.reader.find_cached(inode, 3072, 20) == b""
        # two chunks at once are for read()
        assert image.reader.find_cached(inode, CHUNK - 1, 2) is None


def test_hard_links_share_what_was_read(place: Place) -> None:
    place.push("web", lazy([File("a", CONTENT), Hardlink("b", "a")]))
    with place.open("web") as image:
        assert image.read(b"a") == CONTENT
        place.forget()
        assert image.read(b"b") == CONTENT
        assert place.proxy.requests == []


def test_should_fail_what_is_no_file(image: Image) -> None:
    with pytest.raises(ValueError, match="no regular file"):
        image.reader.read(1, 0, 10)
    with pytest.raises(IndexError):
        image.reader.read(10**6, 0, 10)


# --- holes


def sparse_layer(directory: Path) -> tuple[Built, dict[bytes, bytes]]:
    """A tar with sparse files by GNU tar, and what they hold."""
    if shutil.which("tar") is None:
        pytest.skip("there is no tar")
    directory.mkdir()
    for name, parts in {
        "begin": [(1 << 20, b"x" * 5000)],
        "many": [(at << 16, b"y" * 100) for at in range(20)],
    }.items():
        with (directory / name).open("wb") as file:
            for at, data in parts:
                file.seek(at)
                file.write(data)
    with (directory / "hole").open("wb") as file:
        file.truncate(300_000)
    command = ["tar", "-C", str(directory), "--sparse", "--format=posix", "-c", "."]
    tar = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    descriptor = Descriptor(OCI_LAYER, sha256_digest(tar), len(tar))
    wanted = {os.fsencode(path.name): path.read_bytes() for path in directory.iterdir()}
    return Built(tar, descriptor, sha256_digest(tar)), wanted


def test_holes_are_zeros(place: Place, tmp_path: Path) -> None:
    layer, wanted = sparse_layer(tmp_path / "sparse")
    place.push("web", layer)
    with place.open("web") as image:
        for path, content in wanted.items():
            assert image.read(path) == content
            for off in range(0, len(content), 50_001):
                assert image.read(path, off, 70_000) == content[off : off + 70_000]


# --- a cached layer that is damaged


@pytest.mark.warns(r"can't read 'gzip/20000' at 0 \(layer sha256:\w+, from .*: the cached layer is cut short")
def test_should_fail_cached_layer_that_was_cut(place: Place) -> None:
    place.push("web", LAYERS["gzip"])
    with place.open("web") as image:
        (path,) = (place.cache / "layers").iterdir()
        os.truncate(path, 1024)
        with pytest.raises(OSError) as caught:
            image.read(b"gzip/20000")
        assert caught.value.errno == errno.EIO


def test_cached_layer_that_was_removed_is_still_read(place: Place) -> None:
    place.push("web", LAYERS["gzip"])
    with place.open("web") as image:
        (path,) = (place.cache / "layers").iterdir()
        path.unlink()
        assert image.read(b"gzip/20000") == WANTED[b"gzip/20000"]


# --- layers that are read before they are verified


def tampered(layer: Built) -> Built:
    """The same but for a byte that no chunk holds: the time in the header of the first gzip member."""
    data = bytearray(layer.data)
    data[4] ^= 1
    return Built(bytes(data), layer.descriptor, layer.diff_id)


def push_tampered(place: Place, layer: Built) -> None:
    place.push("web", layer)
    place.files[f"/v2/web/blobs/{layer.descriptor.digest}"] = tampered(layer).data


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", [FooterKind.STARGZ, FooterKind.ESTARGZ])
def test_should_fail_all_reads_once_a_layer_is_found_to_be_another(
    place: Place, caplog: pytest.LogCaptureFixture, kind: FooterKind
) -> None:
    layer = without_annotations(lazy(files("f"), kind=kind))
    push_tampered(place, layer)
    # the whole body comes slowly enough for a read before it
    place.proxy.use(Slow(seconds=0.3, path=layer.descriptor.digest, range="^$"))
    with place.open("web", allow_unverified=True) as image:
        inode = image.find(b"f/20000")
        assert image.read(b"f/20000", 0, 100) == CONTENT[::-1][:100]
        assert image.reader.find_cached(inode, 0, 100) == CONTENT[::-1][:100]
        wait_for(lambda: "reads from it fail from now on" in caplog.text)
        for name in (b"f/20000", b"f/513"):
            with pytest.raises(OSError) as caught:
                image.read(name, 0, 100)
            assert caught.value.errno == errno.EIO
        # not even what lies in memory
        assert image.reader.find_cached(inode, 0, 100) is None
        assert f"/web@{layer.descriptor.digest} has the digest" in caplog.text


def test_other_layers_are_not_touched(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    bad = without_annotations(lazy(files("bad")))
    place.push("web", lazy(files("good")), bad)
    place.files[f"/v2/web/blobs/{bad.descriptor.digest}"] = tampered(bad).data
    with place.open("web", allow_unverified=True) as image:
        wait_for(lambda: "reads from it fail from now on" in caplog.text)
        assert image.read(b"good/513") == CONTENT[5 : 5 + 513]
        assert image.reader.find_cached(image.find(b"good/513"), 0, 10) is not None
        with pytest.raises(OSError):
            image.read(b"bad/513")


def test_layer_that_is_what_it_should_be_is_read_on(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "crfs.image.verify")
    place.push("web", without_annotations(lazy(files("f"), kind=FooterKind.STARGZ)))
    with place.open("web", allow_unverified=True) as image:
        wait_for(lambda: "the whole layer matches its digest" in caplog.text)
        assert image.read(b"f/20000") == CONTENT[::-1]


def test_layer_that_cannot_be_verified_is_read_on(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    layer = without_annotations(lazy(files("f")))
    place.push("web", layer)
    place.proxy.use(Status(status=404, path=layer.descriptor.digest, range="^$"))
    with place.open("web", allow_unverified=True) as image:
        wait_for(lambda: "stays unverified" in caplog.text)
        assert image.read(b"f/20000") == CONTENT[::-1]
