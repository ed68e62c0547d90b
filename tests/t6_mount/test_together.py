"""Many mounts of one image, begun at once on one empty cache: its layers are opened once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.faults import FaultProxy, Slow, Stall
from tests.support.layers import Dir, Entry
from tests.support.mounting import Crfs, wait_until
from tests.t6_mount.images import estargz_layer, noise, noisy, push

LARGE = 150_000
COUNT = 6
ENTRIES: list[Entry] = [Dir("./"), *(noisy(f"file{number}", LARGE) for number in range(COUNT))]
BLOBS = "/blobs/"


@pytest.fixture(scope="session")
def path(registry: Registry) -> str:
    """The image's name behind the host."""
    return push(registry.address, "together", estargz_layer(ENTRIES)).partition(registry.address)[2]


@pytest.fixture
def proxy(registry: Registry, crfs: Crfs) -> Iterator[FaultProxy]:
    """In front of the registry; gone before the mounts are."""
    with FaultProxy(f"http://{registry.address}") as running:
        yield running


def test_layers_are_opened_once(crfs: Crfs, proxy: FaultProxy, path: str, tmp_path: Path) -> None:
    source = f"docker://{proxy.host}{path}"
    crfs.mount(source, "--no-server", "--cache", tmp_path / "alone")
    alone = proxy.count("GET", BLOBS)
    assert alone > 0
    # longer than it takes all of them to come so far
    proxy.use(Slow(path=BLOBS, seconds=1.0, times=1))
    roots = [crfs.new_directory() for _ in range(COUNT)]
    started = [
        crfs.start("mount", source, root, "--no-server", "--cache", tmp_path / "many") for root in roots
    ]
    assert [process.wait(60) for process in started] == [0] * COUNT, crfs.log
    assert proxy.count("GET", BLOBS) == alone
    for number, root in enumerate(roots):
        assert (root / f"file{number}").read_bytes() == noise(f"file{number}", LARGE)


def test_others_go_on_when_the_first_is_killed(
    crfs: Crfs, proxy: FaultProxy, path: str, tmp_path: Path
) -> None:
    source = f"docker://{proxy.host}{path}"
    proxy.use(Stall(path=BLOBS, times=1))
    first, second = crfs.new_directory(), crfs.new_directory()
    stalled = crfs.start("mount", "--foreground", source, first)
    wait_until(lambda: proxy.count("GET", BLOBS) == 1, 20, lambda: "the first has not asked for the layer")
    other = crfs.start("mount", "--no-server", source, second)
    wait_until(
        lambda: proxy.count("GET", "/manifests/") == 2,
        20,
        lambda: "the second has not asked for the manifest",
    )
    stalled.send_signal(signal.SIGKILL)
    stalled.wait(20)
    assert other.wait(60) == 0, crfs.log
    assert (second / "file1").read_bytes() == noise("file1", LARGE)
    proxy.release()
