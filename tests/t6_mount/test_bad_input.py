"""What can't be mounted: one line that names it, a status, and nothing left behind."""

import errno
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crfs.formats.footer import FooterKind, build_footer, find_footer
from crfs.registry.server import Registry
from tests.support.dockerregistry import need_root
from tests.support.faults import FaultProxy
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, Done
from tests.t6_mount.images import (
    TAR,
    Layer,
    estargz_layer,
    gzip_layer,
    noise,
    noisy,
    push,
    push_index,
    tar_layer,
    write_layout,
    zstd_layer,
)

ENTRIES: list[Entry] = [Dir("./"), noisy("large", 100_000), File("small", b"small")]
TOC = "stargz.index.json"
Toc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """What a case can use."""

    registry: Registry
    directory: Path

    def write(self, data: bytes) -> str:
        """A file of these bytes."""
        (self.directory / "blob").write_bytes(data)
        return f"{self.directory}/blob"

    def layout(self, layer: Layer, data: bytes | None = None) -> str:
        """An image in a layout, the blob of whose layer has been replaced by `data`."""
        source = write_layout(self.directory / "layout", layer)
        path = self.directory / "layout/blobs/sha256" / layer.digest.removeprefix("sha256:")
        path.write_bytes(layer.data if data is None else data)
        return source


@pytest.fixture
def place(registry: Registry, tmp_path: Path) -> Place:
    return Place(registry, tmp_path)


def check(done: Done, names: str, status: int = 1) -> None:
    """That a command has failed as it should."""
    assert done.out == ""
    assert done.err.startswith("crfs: "), done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    assert names in done.err
    assert done.status == status


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0xFF
    return bytes(changed)


def with_toc(change: Callable[[Toc], object], member: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """An eStargz whose TOC has been changed, and says so nowhere."""
    data = estargz_layer(ENTRIES, chunk_size=40_000).data
    footer = find_footer(data[-100:])
    assert footer is not None
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data[footer.toc_off :]))) as tar:
        packed = tar.extractfile(TOC)
        assert packed is not None
        toc = json.loads(packed.read())
    changed = change(toc)
    text = changed if isinstance(changed, bytes) else json.dumps(toc).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(TOC)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return data[: footer.toc_off] + member(out.getvalue()) + build_footer(FooterKind.ESTARGZ, footer.toc_off)


def entry(toc: Toc, name: str) -> Toc:
    found: Toc = next(entry for entry in toc["entries"] if entry["name"] == name)
    return found


LYING_TOCS: dict[str, Callable[[Toc], object]] = {
    "no-json": lambda toc: b"{",
    "chunk-behind-the-end": lambda toc: entry(toc, "large").update(offset=10**9),
    "long-name": lambda toc: entry(toc, "small").update(name="x" * 256),
    "link-to-nothing": lambda toc: toc["entries"].append({"name": "l", "type": "hardlink", "linkName": "x"}),
}  # fmt: skip

BLOBS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "noise": lambda: noise("blob", 5000),
    "gzip-magic": lambda: b"\x1f\x8b",
    "tar-cut-in-a-file": lambda: tar_layer(ENTRIES).data[:50_000],
    "gzip-cut": lambda: gzip_layer(ENTRIES).data[:-5000],
    "zstd-cut": lambda: zstd_layer(ENTRIES).data[:-5000],
    "estargz-cut": lambda: estargz_layer(ENTRIES).data[:-200],
    "footer-beyond": lambda: bytes(100) + build_footer(FooterKind.ESTARGZ, 10**12),
    "toc-damaged": lambda: flipped(estargz_layer(ENTRIES).data, -300),
    **{f"toc-{name}": (lambda change=change: with_toc(change)) for name, change in LYING_TOCS.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)
def test_should_fail_blob_that_is_no_layer(place: Place, crfs: Crfs, blob: Callable[[], bytes]) -> None:
    source = place.write(blob())
    check(crfs.run("mount", source, crfs.new_directory()), source)


@pytest.mark.parametrize(
    "change",
    [
        lambda toc: entry(toc, "large").update(size=10**6),
        lambda toc: entry(toc, "large").update(chunkDigest=f"sha256:{'0' * 64}"),
        lambda toc: entry(toc, "large").update(innerOffset=7),
    ],
    ids=["size", "digest", "inner-offset"],
)
def test_should_fail_reading_what_a_toc_lies_about(
    place: Place, crfs: Crfs, change: Callable[[Toc], object]
) -> None:
    at = crfs.mount(place.write(with_toc(change)))
    with pytest.raises(OSError) as caught:
        (at / "large").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (at / "small").read_bytes() == b"small"
    assert f"{place.directory}/blob" in crfs.log


LAYOUTS: dict[str, Callable[[Place], str]] = {
    "missing": lambda place: f"oci:{place.directory}/missing",
    "no-such-name": lambda place: place.layout(tar_layer(ENTRIES)).replace(":v1", ":v2"),
    "layer-damaged": lambda place: place.layout(layer := tar_layer(ENTRIES), flipped(layer.data, 2000)),
    "toc-damaged": lambda place: place.layout(layer := estargz_layer(ENTRIES), flipped(layer.data, -300)),
    "diff-id": lambda place: place.layout(
        Layer(tar_layer(ENTRIES).data, TAR, f"sha256:{'0' * 64}")
    ),
    "toc-of-another": lambda place: place.layout(
        Layer(
            estargz_layer(ENTRIES).data,
            f"{TAR}+gzip",
            f"sha256:{'0' * 64}",
            estargz_layer(ENTRIES[:2]).annotations,
        )
    ),
    "no-layer": lambda place: place.layout(Layer(b"x", "application/x-unknown", f"sha256:{'0' * 64}")),
}  # fmt: skip


@pytest.mark.parametrize("source", LAYOUTS.values(), ids=LAYOUTS)
def test_should_fail_layout(place: Place, crfs: Crfs, source: Callable[[Place], str]) -> None:
    text = source(place)
    check(crfs.run("mount", text, crfs.new_directory()), str(place.directory))


REFERENCES: dict[str, Callable[[Place], tuple[str, str]]] = {
    "repository": lambda place: (f"docker://{place.registry.address}/missing:v1", "/missing"),
    "tag": lambda place: (
        push(place.registry.address, "bad/tag", tar_layer(ENTRIES)).replace(":v1", ":v2"),
        "/bad/tag",
    ),
    "digest": lambda place: (
        f"{push(place.registry.address, 'bad/digest', tar_layer(ENTRIES))}@sha256:{'0' * 64}",
        "/bad/digest",
    ),
    "refused": lambda place: ("docker://127.0.0.1:1/image:v1", "127.0.0.1:1/"),
    "refused-url": lambda place: ("http://127.0.0.1:1/dir/blob", "http://127.0.0.1:1/dir/blob"),
    "file": lambda place: (f"{place.directory}/missing", f"{place.directory}/missing"),
    "directory": lambda place: (f"{place.directory}", f"{place.directory}"),
}  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
def test_should_fail_source_that_is_not_there(
    place: Place, crfs: Crfs, reference: Callable[[Place], tuple[str, str]]
) -> None:
    source, names = reference(place)
    check(crfs.run("mount", source, crfs.new_directory()), names)


def test_should_fail_report_of_what_is_not_there(place: Place, crfs: Crfs) -> None:
    for name in ("repository", "file"):
        source, names = REFERENCES[name](place)
        check(crfs.run("inspect", source), names)


@pytest.mark.parametrize(
    "source",
    [
        "docker:/host/image",
        "docker://HOST/UPPER",
        "docker://host/image@sha256:12",
        "oci:",
        "file://",
        "/with\nnewline",
    ],
)
def test_should_fail_malformed_source(crfs: Crfs, source: str) -> None:
    check(crfs.run("mount", source, crfs.new_directory()), source.replace("\n", "\\n"), 2)


def test_should_fail_web_server_without_the_blob(crfs: Crfs) -> None:
    with FaultProxy({}) as server:
        url = f"{server.url}/dir/blob?secret=x"
        done = crfs.run("mount", url, crfs.new_directory())
        check(done, f"{server.url}/dir/blob")
        assert "secret" not in done.err


@pytest.fixture
def closed() -> Iterator[Registry]:
    """A registry for a user."""
    with Registry(credentials=("user", "right")) as registry:
        yield registry


def authfile(place: Place, registry: Registry, auth: str) -> str:
    path = place.directory / "auth.json"
    path.write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
    return str(path)


def test_should_fail_registry_without_credentials(closed: Registry, crfs: Crfs) -> None:
    done = crfs.run("mount", f"docker://{closed.address}/image:v1", crfs.new_directory())
    check(done, f"{closed.address}/v2/image")
    assert "credentials" in done.err


def test_should_fail_wrong_credentials(place: Place, closed: Registry, crfs: Crfs) -> None:
    path = authfile(place, closed, "dXNlcjp3cm9uZw==")  # user:wrong
    done = crfs.run("mount", f"docker://{closed.address}/image:v1", crfs.new_directory(), "--authfile", path)
    check(done, f"{closed.address}/v2/image")
    assert path in done.err


def test_should_fail_credentials_that_are_none(place: Place, closed: Registry, crfs: Crfs) -> None:
    source, at = f"docker://{closed.address}/image:v1", crfs.new_directory()
    missing = f"{place.directory}/missing"
    check(crfs.run("mount", source, at, "--authfile", missing), missing, 2)
    malformed = place.write(b"{")
    check(crfs.run("mount", source, at, "-o", f"authfile={malformed}"), malformed, 2)


@pytest.fixture
def source(registry: Registry) -> str:
    """An image that can be mounted."""
    return push(registry.address, "bad/good", estargz_layer(ENTRIES))


def mountpoint_missing(crfs: Crfs) -> Path:
    return crfs.place / "missing"


def mountpoint_parent_missing(crfs: Crfs) -> Path:
    return crfs.place / "missing/dir"


def mountpoint_file(crfs: Crfs) -> Path:
    (crfs.place / "file").touch()
    return crfs.place / "file"


def mountpoint_below_a_file(crfs: Crfs) -> Path:
    return mountpoint_file(crfs) / "dir"


def mountpoint_not_empty(crfs: Crfs) -> Path:
    at = crfs.new_directory()
    (at / "file").touch()
    return at


def mountpoint_loop(crfs: Crfs) -> Path:
    (crfs.place / "loop").symlink_to("loop")
    return crfs.place / "loop"


def mountpoint_dangling(crfs: Crfs) -> Path:
    (crfs.place / "dangling").symlink_to("nowhere")
    return crfs.place / "dangling"


def mountpoint_long(crfs: Crfs) -> Path:
    return crfs.place / ("x" * 256)


PLACES = [
    mountpoint_missing,
    mountpoint_parent_missing,
    mountpoint_file,
    mountpoint_below_a_file,
    mountpoint_not_empty,
    mountpoint_loop,
    mountpoint_dangling,
    mountpoint_long,
]


@pytest.mark.parametrize("where", PLACES)
def test_should_fail_mountpoint(source: str, crfs: Crfs, where: Callable[[Crfs], Path]) -> None:
    at = where(crfs)
    check(crfs.run("mount", source, at), str(at))
    check(crfs.run("umount", at), str(at))


def test_should_fail_mountpoint_with_a_newline_in_one_line(source: str, crfs: Crfs) -> None:
    at = f"{crfs.place}/a\nb"
    for words in (("mount", source, at), ("umount", at)):
        check(crfs.run(*words), f"{crfs.place}/a\\nb")


def test_should_fail_umount_of_somebody_elses_mount(crfs: Crfs) -> None:
    check(crfs.run("umount", "/proc"), "/proc")
    assert os.path.ismount("/proc")


def test_should_fail_mount_that_fuse_refuses(source: str, crfs: Crfs) -> None:
    at = crfs.new_directory()
    check(crfs.run("mount", source, at, "-o", "max_read=x"), str(at))


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("unknown", "unknown"),
        ("ro,cash=/x", "cash=/x"),
        ("tls_verify=maybe", "tls_verify=maybe"),
        ("uid=0", "uid=0"),
    ],
)
def test_should_fail_mount_option(source: str, crfs: Crfs, option: str, names: str) -> None:
    check(crfs.run("mount", source, crfs.new_directory(), "-o", option), names, 2)


@pytest.mark.parametrize("platform", ["linux/amd64/v1/x", "linux amd64"])
def test_should_fail_malformed_platform(source: str, crfs: Crfs, platform: str) -> None:
    check(crfs.run("mount", source, crfs.new_directory(), "--platform", platform), repr(platform), 2)


def test_should_fail_platform_that_an_image_lacks(registry: Registry, crfs: Crfs) -> None:
    source = push_index(registry.address, "bad/platform", {"riscv64": estargz_layer(ENTRIES)})
    check(crfs.run("mount", source, crfs.new_directory(), "--platform", "linux/s390x"), "linux/s390x")


@pytest.mark.parametrize("cache", ["file", "file/below", "/proc/crfs"])
def test_should_fail_cache_that_cannot_be_written(source: str, crfs: Crfs, cache: str) -> None:
    (crfs.place / "file").touch()
    path = crfs.place / cache
    check(crfs.run("mount", source, crfs.new_directory(), "--cache", path), str(path))


def test_should_fail_cache_of_somebody_else(source: str, crfs: Crfs) -> None:
    need_root()
    mounted = crfs.mount(source)
    check(crfs.run("mount", source, crfs.new_directory(), "-o", f"cache={mounted}/c"), f"{mounted}/c")


@pytest.mark.parametrize("words", [(), ("mount",), ("mount", "x"), ("umount",), ("no-command",), ("-x",)])
def test_should_fail_wrong_use(crfs: Crfs, words: tuple[str, ...]) -> None:
    done = crfs.run(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("usage: crfs")
    assert "Traceback" not in done.err
