"""What a mount tells of itself: `crfs status`, `.crfs/` and Prometheus."""

import errno
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crfs.registry.server import Registry
from tests.support.dockerregistry import need_root
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, run_program, wait_until
from tests.t6_mount.images import Layer, estargz_layer, noise, noisy, push

LARGE = 150_000
ENTRIES: list[Entry] = [Dir("./"), Dir("dir"), noisy("dir/one", LARGE), noisy("two", LARGE)]


@pytest.fixture(scope="session")
def layer() -> Layer:
    return estargz_layer(ENTRIES)


@pytest.fixture(scope="session")
def source(registry: Registry, layer: Layer) -> str:
    return push(registry.address, "status", layer)


def status(crfs: Crfs, *words: str | Path) -> list[dict[str, Any]]:
    done = crfs.run("status", "--json", *words)
    assert (done.status, done.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def test_tells_what_was_fetched_and_read(crfs: Crfs, source: str) -> None:
    root = crfs.mount(source, "--no-background-fetch", "--engine", "fuse")
    (before,) = status(crfs, root)
    assert before["mountpoint"] == str(root)
    assert (before["health"], before["engine"], before["pid"]) == ("running", "fuse", crfs.daemon())
    assert before["report"]["waited"] == 0
    assert (root / "two").read_bytes() == noise("two", LARGE)
    (after,) = status(crfs, root)
    (layer,) = after["report"]["layers"]
    assert layer["cached"] + layer["waited"] == LARGE
    assert LARGE < after["report"]["fetched"] - before["report"]["fetched"] < 2 * LARGE
    assert after["report"]["stalls"]["count"] >= 1
    (registry,) = after["report"]["registries"]
    assert registry["requests"] == after["report"]["requests"] > before["report"]["requests"]
    assert str(root) in crfs.run("status").out
    assert "estargz" in crfs.run("status", root).out


def test_state_is_in_a_directory_that_is_not_listed(crfs: Crfs, source: str) -> None:
    root = crfs.mount(source, "--no-background-fetch", "--engine", "fuse")
    assert sorted(os.listdir(root)) == ["dir", "two"]
    assert run_program("find", root, "-name", ".crfs") == b""
    names = sorted(os.listdir(root / ".crfs"))
    assert names[-1] == "state.json"
    assert names[0].startswith("sha256:")
    for expected in (0, LARGE):
        told = json.loads((root / ".crfs/state.json").read_text())
        assert told["cached"] + told["waited"] == expected
        (root / "two").read_bytes()
    assert json.loads((root / ".crfs" / names[0]).read_text())["cached"] <= LARGE
    with pytest.raises(FileNotFoundError):
        (root / ".crfs/none").stat()
    with pytest.raises(OSError, match="Read-only"):
        (root / ".crfs/state.json").write_text("x")


def test_writable_mount_has_it_too_and_keeps_it_as_it_is(crfs: Crfs, source: str) -> None:
    upper, work = crfs.new_directory(), crfs.new_directory()
    root = crfs.mount(source, "--upper", upper, "--work", work, "--engine", "fuse")
    assert (root / "two").read_bytes() == noise("two", LARGE)
    assert json.loads((root / ".crfs/state.json").read_text())["digest"].startswith("sha256:")
    for change in (
        lambda: (root / ".crfs/new").write_text("x"),
        lambda: (root / ".crfs/new").mkdir(),
        lambda: (root / ".crfs/state.json").unlink(),
        lambda: (root / ".crfs/state.json").chmod(0o777),
        lambda: os.link(root / ".crfs/state.json", root / "linked"),
    ):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            change()
        assert caught.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    (root / "new").mkdir()
    (root / "new/file").write_text("x")
    assert (root / "new/file").read_text() == "x"
    assert sorted(os.listdir(root)) == ["dir", "new", "two"]
    assert sorted(os.listdir(upper)) == ["new"]


def test_what_an_image_has_by_that_name_goes_before(crfs: Crfs, registry: Registry) -> None:
    layer = estargz_layer([Dir("./"), Dir(".crfs"), File(".crfs/own", b"own")])
    root = crfs.mount(push(registry.address, "owncrfs", layer), "--engine", "fuse")
    assert os.listdir(root) == [".crfs"]
    assert os.listdir(root / ".crfs") == ["own"]
    assert not (root / ".crfs/state.json").exists()


@pytest.mark.parametrize("engine", ["overlay", "erofs"])
def test_other_engines_are_asked_by_the_command(crfs: Crfs, source: str, engine: str) -> None:
    upper, work = crfs.new_directory(), crfs.new_directory()
    done = crfs.run(
        "mount", source, root := crfs.new_directory(), "--upper", upper, "--work", work, "--engine", engine
    )
    if done.status:
        pytest.skip(done.err)
    assert (root / "two").read_bytes() == noise("two", LARGE)
    (found,) = status(crfs, root)
    assert (found["engine"], found["upper"]) == (engine, str(upper))
    assert found["report"]["cached"] + found["report"]["waited"] >= LARGE
    crfs.umount(root)


@pytest.mark.parametrize("engine", ["fuse", "overlay"])
def test_directories_have_nothing_to_tell(crfs: Crfs, tmp_path: Path, engine: str) -> None:
    """No image is below: the mount is served all the same."""
    need_root()
    lower, upper, work = (tmp_path / name for name in ("lower", "upper", "work"))
    for path in (lower, upper, work):
        path.mkdir()
    at = crfs.mount(lower, "--engine", engine, "--upper", upper, "--work", work)
    (told,) = status(crfs, at)
    assert (told["health"], told["engine"], told["report"]) == ("running", engine, None)
    assert crfs.run("status", at).out.splitlines()[-1] == f"Process:  {crfs.daemon()}"


def test_lost_mount_is_told_of(crfs: Crfs, source: str) -> None:
    root = crfs.mount(source, "--no-server")
    os.kill(crfs.daemon(), signal.SIGKILL)
    wait_until(lambda: status(crfs, root)[0]["health"] == "lost", 10, lambda: str(status(crfs, root)))
    assert "mounted again" in crfs.run("status", root).out
    crfs.umount(root)
    done = crfs.run("status", root)
    assert (done.status, done.err) == (1, f"crfs: {root}: no image is mounted here\n")


def test_stopped_server_does_not_hold_up_who_asks(crfs: Crfs, source: str) -> None:
    root = crfs.mount(source, "--no-server")
    pid = crfs.daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert status(crfs, root)[0]["health"] == "silent"
    finally:
        os.kill(pid, signal.SIGCONT)


def metrics(answer: bytes) -> dict[str, float]:
    """The samples of an answer, by name and labels but for those that differ from run to run."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            shown = [sample.labels[key] for key in ("from", "le") if key in sample.labels]
            name = "/".join([sample.name, *shown])
            found[name] = found.get(name, 0) + sample.value
    return found


def get(address: tuple[str, int] | str) -> bytes:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.read()


@pytest.mark.parametrize("kind", ["unix", "port"])
def test_prometheus_metrics(
    crfs: Crfs, source: str, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("m") / "s"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = f"unix:{path}" if kind == "unix" else f"127.0.0.1:{port}"
    at: str | tuple[str, int] = str(path) if kind == "unix" else ("127.0.0.1", port)
    root = crfs.mount(source, "--metrics", given, "--no-background-fetch")
    assert (root / "two").read_bytes() == noise("two", LARGE)
    found = metrics(get(at))
    (told,) = status(crfs, root)
    report = told["report"]
    assert found["crfs_mount_info"] == 1
    assert found["crfs_image_bytes"] == report["size"]
    assert found["crfs_fetched_bytes_total"] == report["fetched"]
    assert found["crfs_requests_total"] == report["requests"]
    assert found["crfs_read_bytes_total/cache"] + found["crfs_read_bytes_total/registry"] == LARGE
    assert found["crfs_read_stall_seconds_bucket/+Inf"] == report["stalls"]["count"] > 0
    crfs.umount(root)
    assert not path.exists()
    with pytest.raises(OSError, match=r"\[Errno"):
        get(at)


def test_metrics_at_an_address_that_can_not_be_had(crfs: Crfs, source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = crfs.run("mount", source, crfs.new_directory(), "--metrics", address)
    assert (done.status, done.err) == (1, f"crfs: --metrics {address}: Address already in use\n")
    done = crfs.run("mount", source, crfs.new_directory(), "--metrics", "nowhere")
    assert (done.status, done.err) == (2, "crfs: --metrics nowhere: neither unix:PATH nor [HOST]:PORT\n")
    assert crfs.mounts() == []
