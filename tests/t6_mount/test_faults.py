"""Registries that fail while a mount is in use: right bytes or EIO, and nobody waits who needn't."""

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.faults import (
    CutBody,
    Expire,
    FaultProxy,
    FlipByte,
    IgnoreRange,
    NeedBearer,
    OtherRange,
    Redirect,
    ShortRange,
    Stall,
    Status,
)
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, Readers, crfs_in, run_program, wait_until
from tests.t6_mount.images import Layer, estargz_layer, noise, noisy, push

# above what is fetched along with a neighbour
LARGE = 150_000
MANY = 40
NAMES = [f"file{number:02}" for number in range(MANY)]
ENTRIES: list[Entry] = [
    Dir("./"),
    Dir("dir"),
    File("dir/small", b"small"),
    *(noisy(name, LARGE) for name in NAMES),
]
BLOBS = "/blobs/"


@pytest.fixture(scope="session")
def layer() -> Layer:
    return estargz_layer(ENTRIES)


@pytest.fixture(scope="session")
def path(registry: Registry, layer: Layer) -> str:
    """The image's name behind the host."""
    return push(registry.address, "faults", layer).partition(registry.address)[2]


@pytest.fixture
def proxy(registry: Registry, crfs: Crfs) -> Iterator[FaultProxy]:
    """In front of the registry; gone before the mounts are."""
    with FaultProxy(f"http://{registry.address}") as running:
        yield running


@pytest.fixture
def at(proxy: FaultProxy, path: str, crfs: Crfs) -> Path:
    """The image, mounted through the proxy while that has no faults yet."""
    return crfs.mount(f"docker://{proxy.host}{path}")


def check(at: Path, *names: str) -> None:
    for name in names:
        assert (at / name).read_bytes() == noise(name, LARGE)


def check_unreadable(at: Path, *names: str) -> None:
    for name in names:
        with pytest.raises(OSError) as caught:
            (at / name).read_bytes()
        assert caught.value.errno == errno.EIO


FAULTS = [
    FlipByte(path=BLOBS, times=1),
    FlipByte(path=BLOBS, at=-1, times=1),
    CutBody(path=BLOBS, after=1000, times=2),
    CutBody(path=BLOBS, after=100_000, times=2),
    Status(path=BLOBS, status=503, headers={"Retry-After": "1"}, times=2),
    Status(path=BLOBS, status=500, times=2),
    Status(path=BLOBS, status=429, headers={"Retry-After": "0"}, times=3),
    IgnoreRange(path=BLOBS),
    ShortRange(path=BLOBS, most=60_000),
    OtherRange(path=BLOBS, shift=-100_000, times=2),
    NeedBearer(uses=1),
]


@pytest.fixture(scope="module")
def long_lived(
    registry: Registry, path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, FaultProxy]]:
    """One mount that has to live through all of them."""
    place = tmp_path_factory.mktemp("faults") / "crfs"
    with FaultProxy(f"http://{registry.address}") as proxy, crfs_in(place) as crfs:
        yield crfs.mount(f"docker://{proxy.host}{path}"), proxy


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=lambda number: type(FAULTS[number]).__name__)
def test_right_bytes_in_spite_of(long_lived: tuple[Path, FaultProxy], number: int) -> None:
    at, proxy = long_lived
    proxy.use(FAULTS[number])
    check(at, *NAMES[3 * number : 3 * number + 3])
    assert proxy.count("GET", BLOBS) > 0


def test_token_that_expires(proxy: FaultProxy, path: str, crfs: Crfs) -> None:
    proxy.use(NeedBearer(uses=2))
    check(crfs.mount(f"docker://{proxy.host}{path}"), *NAMES[:6])
    assert proxy.count("GET", "/token") > 2


def test_signed_urls_that_expire(registry: Registry, proxy: FaultProxy, path: str, crfs: Crfs) -> None:
    with FaultProxy(f"http://{registry.address}", Expire(uses=2)) as storage:
        proxy.use(Redirect(path=BLOBS, to=storage.url, signed=True))
        check(crfs.mount(f"docker://{proxy.host}{path}"), *NAMES[:6])
        assert proxy.count("GET", BLOBS) > 2


def test_damaged_answer_is_logged(at: Path, proxy: FaultProxy, crfs: Crfs, layer: Layer) -> None:
    proxy.use(FlipByte(path=BLOBS, times=1))
    check(at, "file00")
    (line,) = crfs.log.splitlines()
    assert "WARNING" in line
    assert f"{proxy.host}/faults@{layer.digest}: bytes " in line


def test_should_fail_file_that_is_damaged_each_time(
    proxy: FaultProxy, path: str, crfs: Crfs, layer: Layer
) -> None:
    source = f"docker://{proxy.host}{path}"
    check(crfs.mount(source, "--cache", crfs.place / "other"), "file07")
    span = proxy.seen("GET", BLOBS)[-1].headers["Range"]
    proxy.use(FlipByte(path=BLOBS, range=f"^{span}$", at=50))
    at = crfs.mount(source)
    for _ in range(2):
        check_unreadable(at, "file07")
    check(at, "file06", "file08")
    assert (at / "dir/small").read_bytes() == b"small"
    errors = [line for line in crfs.log.splitlines() if "ERROR" in line]
    assert errors
    for line in errors:
        assert re.search(r"can't read '/?file07' at \d+", line)
        assert f"layer {layer.digest}" in line
        assert f"from {proxy.host}/faults@" in line
    proxy.use()
    check(at, "file07")


def stall(proxy: FaultProxy) -> None:
    """Let no blob through from now on."""
    proxy.use(Stall(path=BLOBS))


def wait_for_requests(proxy: FaultProxy, count: int = 1) -> None:
    """Until so many have arrived. The kernel has only a few reads in flight; neighbours share a request."""
    wait_until(lambda: proxy.count("GET", BLOBS) >= count, 10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stalled_reader_can_be_ended(
    at: Path, proxy: FaultProxy, readers: Readers, number: signal.Signals
) -> None:
    stall(proxy)
    reader = readers.start("cat", at / "file00")
    wait_for_requests(proxy)
    began = time.monotonic()
    reader.send_signal(number)
    reader.wait(10)
    assert time.monotonic() - began < 2
    assert reader.returncode == -number
    proxy.use()
    check(at, "file00")


def test_stalled_readers_are_in_nobodys_way(at: Path, proxy: FaultProxy, readers: Readers) -> None:
    check(at, "file00")
    stall(proxy)
    running = {name: readers.start("cat", at / name) for name in NAMES[1:]}
    wait_for_requests(proxy, 4)
    began = time.monotonic()
    listed = run_program("ls", "-laR", at).decode()
    assert listed.count("file") == MANY
    assert run_program("find", at, "-name", "small", "-printf", "%s") == b"5"
    check(at, "file00")
    assert time.monotonic() - began < 5
    assert all(reader.poll() is None for reader in running.values())
    proxy.use()
    for name, reader in running.items():
        assert reader.communicate(timeout=30)[0] == noise(name, LARGE)
        assert reader.returncode == 0


def test_stalled_readers_do_not_keep_a_daemon(
    at: Path, proxy: FaultProxy, readers: Readers, crfs: Crfs
) -> None:
    stall(proxy)
    running = [readers.start("cat", at / name) for name in NAMES[:30]]
    wait_for_requests(proxy, 4)
    os.kill(crfs.daemon(), signal.SIGTERM)
    for reader in running:
        out, err = reader.communicate(timeout=10)
        assert (reader.returncode, out) == (1, b"")
        # the kernel tries a page once more after EIO, and may find the daemon gone
        assert re.search(b"Input/output error|connection abort|endpoint is not connected", err)
    crfs.expect_nothing(10)


def test_mount_with_stalled_readers_is_busy(
    at: Path, proxy: FaultProxy, readers: Readers, crfs: Crfs
) -> None:
    stall(proxy)
    reader = readers.start("cat", at / "file00")
    wait_for_requests(proxy)
    done = crfs.run("umount", at)
    assert done.status == 1
    assert "busy" in done.err
    reader.kill()
    reader.wait(5)
    wait_until(lambda: crfs.run("umount", at).status == 0, 5)
    crfs.expect_nothing()


def forget_pages(path: Path) -> None:
    """Have the kernel ask for the file's bytes again."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def test_registry_that_goes_and_comes_back(crfs: Crfs, layer: Layer, tmp_path: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        address = registry.address
        at = crfs.mount(push(address, "faults", layer))
        check(at, "file00")
    forget_pages(at / "file00")
    check(at, "file00")
    began = time.monotonic()
    # past the kernel's cache: it would try each page once more
    descriptor = os.open(at / "file01", os.O_RDONLY | os.O_DIRECT)
    with pytest.raises(OSError, match="Input/output error"):
        os.pread(descriptor, 4096, 0)
    os.close(descriptor)
    # a few tries, and the pauses between them
    assert time.monotonic() - began < 30
    assert sorted(os.listdir(at)) == ["dir", *NAMES]
    assert address in crfs.log
    assert "file01" in crfs.log
    with Registry(tmp_path / "registry", port=int(address.rpartition(":")[2])):
        check(at, "file01", "file02")
    check(at, "file00", "file01")


def test_cached_chunks_need_no_registry(crfs: Crfs, proxy: FaultProxy, path: str) -> None:
    """A second mount of what the first one has cached asks for manifest and TOC only."""
    source = f"docker://{proxy.host}{path}"
    at = crfs.mount(source)
    check(at, *NAMES[:5])
    crfs.umount(at)
    crfs.mount(source, at=at)
    proxy.use(Status(path=BLOBS, status=404))
    check(at, *NAMES[:5])
    check_unreadable(at, "file09")
    assert "404" in crfs.log


@pytest.mark.parametrize("engine", ["auto", "fuse"])
def test_damaged_cache_is_repaired(crfs: Crfs, proxy: FaultProxy, path: str, engine: str) -> None:
    source = f"docker://{proxy.host}{path}"
    at = crfs.mount(source, "--engine", engine)
    check(at, "file00", "file01")
    crfs.umount(at)
    chunks = [file for file in (crfs.cache / "chunks").rglob("*") if file.is_file()]
    for number, chunk in enumerate(chunks):
        content = chunk.read_bytes()
        chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if number % 2 else content[:1000])
    crfs.mount(source, "--engine", engine, at=at)
    check(at, "file00", "file01")
    assert crfs.log.count("does not match its name; it is dropped and fetched again") == len(chunks)


@pytest.mark.parametrize("engine", ["fuse", "auto"])
def test_unmounted_while_nobody_waits_for_what_was_asked(
    proxy: FaultProxy, path: str, crfs: Crfs, readers: Readers, engine: str
) -> None:
    """A reader that has ended leaves reads behind, which the registry does not answer."""
    at = crfs.mount(f"docker://{proxy.host}{path}", "--engine", engine)
    stall(proxy)
    running = [readers.start("cat", at / name) for name in NAMES[:5]]
    wait_for_requests(proxy)
    for reader in running:
        reader.kill()
        reader.wait(10)
    crfs.umount(at)
    assert not crfs.leftovers()
