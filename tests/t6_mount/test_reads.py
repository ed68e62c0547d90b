"""Bytes of files by every way in which programs read them, from lazy layers and from tars."""

import errno
import hashlib
import mmap
import os
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, crfs_in, run_program
from tests.t6_mount.images import Layer, estargz_layer, noise, noisy, push, tar_layer

SIZE = 1_000_003
CONTENT = noise("large", SIZE)
PAGE = mmap.PAGESIZE
ENTRIES: list[Entry] = [
    Dir("./"),
    File("large", CONTENT),
    *(noisy(f"file{number}", 200_000 + number) for number in range(6)),
    File("zeros", bytes(300_000)),
    File("empty"),
    File("byte", b"x"),
]
OTHERS = {
    "shared-members": lambda: estargz_layer(ENTRIES, chunk_size=30_000, min_chunk_size=100_000),
    "tar": lambda: tar_layer(ENTRIES),
}
MAPPED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
    print(mapped[-1], hashlib.sha256(mapped).hexdigest())
    mapped[5] ^= 255
    print(mapped[5])
"""


@pytest.fixture(scope="module")
def source(registry: Registry) -> str:
    return push(registry.address, "reads", estargz_layer(ENTRIES, chunk_size=70_001))


@pytest.fixture(scope="module")
def root(source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with crfs_in(tmp_path_factory.mktemp("reads") / "crfs") as crfs:
        yield crfs.mount(source)


@pytest.fixture
def cold(source: str, crfs: Crfs) -> Path:
    """The same image, of which nothing was read yet."""
    return crfs.mount(source)


@pytest.fixture
def large(root: Path) -> Iterator[int]:
    """The large file, open."""
    descriptor = os.open(root / "large", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def check_spans(path: Path, content: bytes, seed: int, count: int) -> None:
    """Read at random places and compare; in any thread."""
    chance = random.Random(seed)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(count):
            start = chance.randrange(len(content) + 1000)
            size = chance.choice([1, 7, 4096, 4097, 70_001, 131_072, 300_000])
            assert os.pread(descriptor, size, start) == content[start : start + size]
    finally:
        os.close(descriptor)


def check_concurrently(root: Path) -> None:
    """Read all files at random places by many threads."""
    contents = {entry.name: entry.payload() for entry in ENTRIES if len(entry.payload()) > 1000}
    with ThreadPoolExecutor(12) as pool:
        running = [
            pool.submit(check_spans, root / name, content, seed, 15)
            for seed in range(3)
            for name, content in contents.items()
        ]
        for future in running:
            future.result()


def test_random_spans(cold: Path) -> None:
    check_spans(cold / "large", CONTENT, 1, 100)


def test_concurrent_readers(cold: Path) -> None:
    check_concurrently(cold)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_layers(registry: Registry, crfs: Crfs, make: Callable[[], Layer]) -> None:
    at = crfs.mount(push(registry.address, "reads-others", make()))
    check_concurrently(at)
    check_spans(at / "large", CONTENT, 2, 100)


def test_whole_files(root: Path) -> None:
    for entry in ENTRIES[1:]:
        assert (root / entry.name).read_bytes() == entry.payload()


def test_reads_around_the_end(large: int) -> None:
    assert os.pread(large, 100, SIZE - 3) == CONTENT[-3:]
    assert os.pread(large, 100, SIZE) == b""
    assert os.pread(large, 100, SIZE + 1) == b""
    assert os.pread(large, 100, 2**62) == b""
    assert os.lseek(large, -10, os.SEEK_END) == SIZE - 10
    assert os.read(large, 100) == CONTENT[-10:]
    assert os.read(large, 100) == b""


def test_vectors(large: int) -> None:
    buffers = [bytearray(10), bytearray(80_000), bytearray(1)]
    assert os.preadv(large, buffers, 69_990) == 80_011
    assert b"".join(buffers) == CONTENT[69_990:150_001]


def test_seek_to_data_and_holes(large: int) -> None:
    assert os.lseek(large, 1000, os.SEEK_DATA) == 1000
    assert os.lseek(large, 0, os.SEEK_HOLE) == SIZE
    with pytest.raises(OSError) as caught:
        os.lseek(large, SIZE, os.SEEK_DATA)
    assert caught.value.errno == errno.ENXIO


def test_direct_reads(cold: Path) -> None:
    descriptor = os.open(cold / "large", os.O_RDONLY | os.O_DIRECT)
    try:
        for page, pages in ((0, 1), (17, 50), (SIZE // PAGE, 4)):
            # an anonymous map is aligned, as O_DIRECT wants it
            with mmap.mmap(-1, pages * PAGE) as buffer:
                count = os.preadv(descriptor, [buffer], page * PAGE)
                assert buffer[:count] == CONTENT[page * PAGE : (page + pages) * PAGE]
    finally:
        os.close(descriptor)


def test_sendfile(cold: Path, tmp_path: Path) -> None:
    descriptor = os.open(cold / "large", os.O_RDONLY)
    with (tmp_path / "copy").open("wb") as out:
        offset = 12_345
        while sent := os.sendfile(out.fileno(), descriptor, offset, 1 << 20):
            offset += sent
    os.close(descriptor)
    assert (tmp_path / "copy").read_bytes() == CONTENT[12_345:]


def test_copies(cold: Path, tmp_path: Path) -> None:
    """cp(1) tries FICLONE and copy_file_range(2) first."""
    run_program("cp", "-a", cold / "large", cold / "zeros", tmp_path)
    assert (tmp_path / "large").read_bytes() == CONTENT
    assert (tmp_path / "zeros").read_bytes() == bytes(300_000)
    assert os.stat(tmp_path / "large").st_mtime_ns == os.stat(cold / "large").st_mtime_ns


def test_mapped_file(cold: Path) -> None:
    # in a process of its own: a page fault holds the GIL, and the registry is a thread of this one
    last, digest, changed = run_program(sys.executable, "-c", MAPPED, cold / "large").decode().split()
    assert (int(last), digest) == (CONTENT[-1], hashlib.sha256(CONTENT).hexdigest())
    assert int(changed) == CONTENT[5] ^ 255
    assert (cold / "large").read_bytes() == CONTENT


def test_reading_in_append_mode_is_reading(root: Path) -> None:
    descriptor = os.open(root / "byte", os.O_RDONLY | os.O_APPEND | os.O_NOFOLLOW)
    assert os.read(descriptor, 10) == b"x"
    os.close(descriptor)


@pytest.mark.parametrize("command", [("crfs", "umount", "--lazy"), ("umount", "-l")], ids=["crfs", "umount"])
def test_open_file_outlives_a_lazy_umount(source: str, crfs: Crfs, command: tuple[str, ...]) -> None:
    at = crfs.mount(source)
    descriptor = os.open(at / "large", os.O_RDONLY)
    try:
        assert os.pread(descriptor, 10, 0) == CONTENT[:10]
        if command[0] == "crfs":
            crfs.umount(at, "--lazy")
        elif os.geteuid() == 0:
            run_program(*command, at)
        else:
            run_program("fusermount", "-uz", at)
        assert list(at.iterdir()) == []
        assert os.pread(descriptor, SIZE, 0) == CONTENT
        assert crfs.pids()
    finally:
        os.close(descriptor)
    crfs.expect_nothing()
