"""Every kind of source and every format of a layer, mounted and compared with what went in."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from crfs.formats.platforms import host_platform
from crfs.registry.server import Registry
from tests.support.faults import FaultProxy, FlipByte, Stall
from tests.support.layers import Dir, Entry, File, Hardlink, opaque, whiteout
from tests.support.mounting import Crfs, wait_until
from tests.t6_mount.images import (
    FORMATS,
    Layer,
    estargz_layer,
    gzip_layer,
    noise,
    noisy,
    push,
    push_index,
    stargz_layer,
    tar_layer,
    write_layout,
    zstd_layer,
)

LARGE = 200_000
ENTRIES: list[Entry] = [
    Dir("./"),
    Dir("dir"),
    noisy("dir/large", LARGE),
    File("dir/empty"),
    File("small", b"small"),
    Hardlink("hard", "dir/large"),
]
CHUNKED: dict[str, Callable[[Sequence[Entry]], Layer]] = {
    **FORMATS,
    "estargz-small-chunks": lambda entries: estargz_layer(entries, chunk_size=10_000),
    "estargz-shared-members": lambda entries: estargz_layer(entries, chunk_size=9_000, min_chunk_size=50_000),
}


def check(root: Path) -> None:
    """That ENTRIES are mounted at `root`."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*")}
    assert set(found) == {entry.name for entry in ENTRIES[1:]}
    for entry in ENTRIES:
        if isinstance(entry, File):
            assert found[entry.name].read_bytes() == entry.data
    assert found["hard"].samefile(found["dir/large"])


@pytest.mark.parametrize("form", ["gzip", "zstd", "stargz"])
def test_blob_in_a_file(crfs: Crfs, tmp_path: Path, form: str) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(CHUNKED[form](ENTRIES).data)
    check(crfs.mount(blob, "--engine", "fuse"))
    (line,) = crfs.mounts()
    assert (line.fstype, line.source) == ("fuse.crfs", f"file://{blob}")
    assert crfs.log == ""


@pytest.mark.parametrize("form", ["estargz", "zstd"])
def test_blob_on_a_web_server(crfs: Crfs, form: str) -> None:
    with FaultProxy({"/dir/blob": FORMATS[form](ENTRIES).data}) as server:
        check(crfs.mount(f"{server.url}/dir/blob?signature=secret"))
        assert {seen.path for seen in server.requests} == {"/dir/blob?signature=secret"}
        (line,) = crfs.mounts()
        assert line.source == f"{server.url}/dir/blob?***"
        crfs.umount(line.at)


def test_blob_by_a_file_url(crfs: Crfs, tmp_path: Path) -> None:
    blob = tmp_path / "ünusual, name\\"
    blob.write_bytes(estargz_layer(ENTRIES).data)
    check(crfs.mount(f"file://{blob}", "--engine", "fuse"))
    (line,) = crfs.mounts()
    # llfuse takes nothing but ASCII for it
    assert line.source == f"file://{blob}".replace("ü", "\\xfc")


@pytest.mark.parametrize("form", ["estargz", "estargz-small-chunks", "estargz-shared-members"])
def test_image_of_one_format(crfs: Crfs, registry: Registry, form: str) -> None:
    source = push(registry.address, f"one/{form}", CHUNKED[form](ENTRIES))
    check(crfs.mount(source))
    assert crfs.mounts()[0].source == source.removeprefix("docker://")
    assert crfs.log == ""


def mixed() -> list[Layer]:
    """An image with a layer of each format; the layers change what the ones below brought."""
    return [
        tar_layer(
            [Dir("./"), Dir("tar"), noisy("tar/kept", LARGE), File("tar/hidden"), File("changed", b"1")]
        ),
        gzip_layer([Dir("gzip"), noisy("gzip/kept", LARGE), whiteout("tar/hidden"), File("changed", b"22")]),
        estargz_layer([Dir("estargz"), noisy("estargz/kept", LARGE), Dir("opaque"), File("opaque/hidden")]),
        stargz_layer([Dir("stargz"), noisy("stargz/kept", LARGE), opaque("opaque"), File("opaque/new")]),
        zstd_layer([Dir("zstd"), noisy("zstd/kept", LARGE), Hardlink("linked", "estargz/kept")]),
    ]


def check_mixed(root: Path) -> None:
    forms = ["tar", "gzip", "estargz", "stargz", "zstd"]
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    assert files == {*(f"{form}/kept" for form in forms), "changed", "opaque/new", "linked"}
    for form in forms:
        assert (root / form / "kept").read_bytes() == noise(f"{form}/kept", LARGE)
    assert (root / "changed").read_bytes() == b"22"
    assert (root / "linked").samefile(root / "estargz/kept")


def test_image_of_mixed_layers_in_a_registry(crfs: Crfs, registry: Registry) -> None:
    check_mixed(crfs.mount(push(registry.address, "mixed", *mixed())))


def test_image_of_mixed_layers_in_a_layout(crfs: Crfs, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "layout", *mixed())
    check_mixed(crfs.mount(source))
    assert crfs.mounts()[0].source == source


def test_only_image_of_a_layout_needs_no_name(crfs: Crfs, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", estargz_layer(ENTRIES))
    check(crfs.mount(f"oci:{tmp_path}/layout"))


def test_image_by_digest(crfs: Crfs, registry: Registry) -> None:
    source = push(registry.address, "by-digest", estargz_layer(ENTRIES))
    reported = crfs.run("inspect", "--json", source).out
    digest = reported.split('"digest": "')[1].split('"')[0]
    check(crfs.mount(f"{source}@{digest}"))


def test_platform(crfs: Crfs, registry: Registry) -> None:
    names = [host_platform().architecture, "riscv64", "s390x"]
    layers = {name: estargz_layer([Dir("./"), File("arch", name.encode())]) for name in names}
    source = push_index(registry.address, "platforms", layers)
    assert (crfs.mount(source) / "arch").read_text() == names[0]
    assert (crfs.mount(source, "--platform", "linux/s390x") / "arch").read_text() == "s390x"
    assert (crfs.mount(source, "-o", "platform=linux/riscv64,ro") / "arch").read_text() == "riscv64"


def test_unverified_stargz_is_read_at_once(crfs: Crfs, registry: Registry) -> None:
    layer = stargz_layer(ENTRIES)
    before = registry.counters
    at = crfs.mount(push(registry.address, "unverified", layer), "--allow-unverified", "--log-level", "info")
    check(at)
    (warning,) = [line for line in crfs.log.splitlines() if "WARNING" in line]
    assert layer.digest in warning
    assert "it is read before it is verified" in warning
    wait_until(lambda: "the whole layer matches its digest" in crfs.log, 10)
    assert (registry.counters - before).bytes_sent > len(layer.data)


def read_past_the_kernel(path: Path) -> bytes:
    """A file's first page, from crfs and not from what the kernel remembers."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.pread(descriptor, 4096, 0)
    finally:
        os.close(descriptor)


def test_should_fail_unverified_layer_that_turns_out_to_be_another(crfs: Crfs, registry: Registry) -> None:
    """The TOC and all that is asked for by ranges is right, the layer as a whole is not."""
    names = ["one", "two", "three"]
    lazy = stargz_layer([Dir("./"), *(noisy(name, LARGE) for name in names)])
    good = estargz_layer([noisy("other", LARGE)])
    source = push(registry.address, "forged", lazy, good)
    with FaultProxy(f"http://{registry.address}") as proxy:
        # what is fetched whole is asked for without a range
        proxy.use(FlipByte(path=lazy.digest, range="^$", at=100), Stall(path=lazy.digest, range="^$"))
        at = crfs.mount(source.replace(registry.address, proxy.host), "--allow-unverified")
        assert read_past_the_kernel(at / "one") == noise("one", LARGE)[:4096]
        proxy.release()
        wait_until(lambda: "reads from it fail from now on" in crfs.log, 10)
        assert lazy.digest in crfs.log
        for name in names:
            with pytest.raises(OSError, match="Input/output error"):
                read_past_the_kernel(at / name)
        assert (at / "other").read_bytes() == noise("other", LARGE)
        assert sorted(os.listdir(at)) == sorted([*names, "other"])
        crfs.umount(at)


def test_unmounted_while_a_layer_is_verified(crfs: Crfs, registry: Registry) -> None:
    source = push(registry.address, "verifying", stargz_layer(ENTRIES))
    with FaultProxy(f"http://{registry.address}", Stall(path="/blobs/", range="^$")) as proxy:
        at = crfs.mount(source.replace(registry.address, proxy.host), "--allow-unverified")
        check(at)
        wait_until(lambda: any("Range" not in seen.headers for seen in proxy.seen("GET", "/blobs/")), 10)
        crfs.umount(at)
        assert not crfs.leftovers()


def test_cache_is_shared_by_images(crfs: Crfs, registry: Registry) -> None:
    """The second image has the same chunks in another blob; the first is gone when it is read."""
    first = estargz_layer(ENTRIES)
    check(crfs.mount(push(registry.address, "sharing-one", first)))
    second = estargz_layer([*ENTRIES, File("more", b"more")])
    at = crfs.mount(push(registry.address, "sharing-two", second))
    before = registry.counters
    assert (
        hashlib.sha256((at / "dir/large").read_bytes()).digest()
        == hashlib.sha256(noise("dir/large", LARGE)).digest()
    )
    assert (registry.counters - before).requests == 0
