"""How a mount begins and ends, whoever ends it, and that nothing is left then."""

import errno
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dockerregistry import lacking, need_programs, need_root
from tests.support.faults import FaultProxy, Stall
from tests.support.layers import Dir, Entry
from tests.support.mounting import Crfs, Readers, run_program, wait_until
from tests.t6_mount.images import estargz_layer, noise, noisy, push, tar_layer

LARGE = 200_000
NAMES = ["one", "two", "three"]
ENTRIES: list[Entry] = [Dir("./"), Dir("dir"), *(noisy(name, LARGE) for name in NAMES)]


@pytest.fixture(scope="session")
def source(registry: Registry) -> str:
    return push(registry.address, "life", estargz_layer(ENTRIES))


def check(at: Path, *names: str) -> None:
    """That the image is mounted and can be read."""
    assert sorted(os.listdir(at)) == sorted(["dir", *NAMES])
    for name in names:
        assert (at / name).read_bytes() == noise(name, LARGE)


def unmount_with(crfs: Crfs, command: str, at: Path) -> None:
    if command == "crfs":
        crfs.umount(at)
        assert not crfs.leftovers()
        return
    if command == "umount":
        need_root()
        run_program("umount", at)
    else:
        need_programs(["fusermount"])
        run_program("fusermount", "-u", at)
    crfs.expect_nothing()


@pytest.mark.parametrize("command", ["crfs", "umount", "fusermount"])
def test_unmounted_by(source: str, crfs: Crfs, command: str) -> None:
    at = crfs.mount(source)
    check(at, "one")
    unmount_with(crfs, command, at)
    assert list(at.iterdir()) == []
    assert crfs.log == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_ended_by(source: str, crfs: Crfs, number: signal.Signals) -> None:
    check(crfs.mount(source), "one")
    os.kill(crfs.daemon(), number)
    crfs.expect_nothing()
    assert crfs.log == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_foreground_ended_by(source: str, crfs: Crfs, number: signal.Signals) -> None:
    at = crfs.new_directory()
    with crfs.start("mount", "--foreground", source, at) as process:
        wait_until(lambda: bool(crfs.mounts()) and os.listdir(at) != [], 10)
        check(at, "one")
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0
    assert not crfs.leftovers()


def test_foreground_ended_by_umount(source: str, crfs: Crfs) -> None:
    at = crfs.new_directory()
    with crfs.start("mount", "-f", source, at) as process:
        wait_until(lambda: bool(crfs.mounts()) and os.listdir(at) != [], 10)
        crfs.umount(at)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0


def test_daemon_lets_go_of_its_caller(source: str, crfs: Crfs) -> None:
    crfs.mount(source)
    daemon = crfs.daemon()
    proc = Path(f"/proc/{daemon}")
    assert [os.readlink(proc / "fd" / name) for name in "01"] == ["/dev/null"] * 2
    assert os.readlink(proc / "fd/2") == f"{crfs.place}/state/crfs/log/mount.log"
    assert os.readlink(proc / "cwd") == "/"
    assert os.getsid(daemon) not in (os.getsid(0), 0)


def kill(crfs: Crfs, at: Path) -> None:
    """End the daemon so that it can do nothing more about its mount; what it writes to the cache is done."""
    wait_until(lambda: not list((crfs.cache / "tmp").iterdir()), 5)
    os.kill(crfs.daemon(), signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    with pytest.raises(OSError) as caught:
        os.statvfs(at)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_mounted_anew_after_a_kill(source: str, crfs: Crfs) -> None:
    at = crfs.mount(source, "--engine", "fuse")
    check(at, "one")
    kill(crfs, at)
    crfs.mount(source, at=at)
    check(at, "one", "two")
    crfs.umount(at)
    assert list(at.iterdir()) == []


def test_unmounted_after_a_kill(source: str, crfs: Crfs) -> None:
    at = crfs.mount(source, "--engine", "fuse")
    kill(crfs, at)
    crfs.umount(at)
    assert not crfs.leftovers()
    assert list(at.iterdir()) == []


def test_should_fail_second_mount_of_the_same_place(source: str, crfs: Crfs) -> None:
    at = crfs.mount(source)
    for options in ((), ("-o", "nonempty")):
        done = crfs.run("mount", source, at, *options)
        image = source.removeprefix("docker://")
        assert (done.status, done.out) == (1, "")
        assert done.err == f"crfs: {at}: {image} is mounted here already\n"
    check(at, "one")
    assert len(crfs.mounts()) == 1


def test_should_fail_umount_of_a_busy_mount(source: str, crfs: Crfs) -> None:
    at = crfs.mount(source)
    with (at / "one").open("rb") as file:
        done = crfs.run("umount", at)
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert done.err.startswith("crfs: ")
        assert str(at) in done.err
        assert "busy" in done.err
        assert file.read() == noise("one", LARGE)
    check(at, "two")
    crfs.umount(at)


def test_should_fail_umount_twice(source: str, crfs: Crfs) -> None:
    at = crfs.mount(source)
    crfs.umount(at)
    done = crfs.run("umount", at)
    assert (done.status, done.out, done.err) == (1, "", f"crfs: {at}: no image is mounted here\n")


def test_two_mounts_of_one_cache(source: str, crfs: Crfs, tmp_path: Path) -> None:
    first, second = (crfs.mount(source, "--cache", tmp_path / "shared") for _ in range(2))
    check(first, "one")
    check(second, "one", "two")
    check(first, "two", "three")
    crfs.umount(first)
    check(second, "three")


def test_whole_layer_in_one_cache_of_two_mounts(registry: Registry, crfs: Crfs) -> None:
    source = push(registry.address, "life-tar", tar_layer(ENTRIES))
    check(crfs.mount(source), *NAMES)
    before = registry.counters
    check(crfs.mount(source), *NAMES)
    assert (registry.counters - before).bytes_sent < LARGE


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A directory with nothing in it but the command, as a link."""
    command = Path(sys.executable).with_name("crfs")
    if not command.exists():
        lacking(f"{command} is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/crfs").symlink_to(command)
    return tmp_path / "bin"


def test_mount_fuse(source: str, crfs: Crfs, link: Path, tmp_path: Path) -> None:
    """As mount(8) calls it."""
    need_root()
    need_programs(["mount.fuse"])
    at, cache = crfs.new_directory(), tmp_path / "elsewhere"
    environment = {**crfs.environment, "PATH": f"{link}:{os.environ['PATH']}"}
    options = f"rw,nosuid,nodev,cache={cache},tls-verify=false,engine=fuse,x-systemd.automount,_netdev"
    command = ["/sbin/mount.fuse", source, str(at), "-t", "fuse.crfs", "-o", options]
    assert run_program(*command, env=environment) == b""
    (line,) = crfs.mounts()
    assert (line.fstype, line.source) == ("fuse.crfs", source.removeprefix("docker://"))
    assert {"ro", "nosuid", "nodev"} <= line.options
    check(at, "one")
    assert (cache / "chunks").is_dir()


def test_mount_8(source: str, crfs: Crfs, link: Path) -> None:
    """It looks for helpers in directories of its own choice, so one is covered in a namespace of its own."""
    need_root()
    need_programs(["mount.fuse", "unshare"])
    at = crfs.new_directory()
    words = ["mount", "-t", "fuse.crfs", source, str(at), "-o", "ro,noatime"]
    script = f"""
        set -e
        mount --bind {link} /usr/local/bin
        {shlex.join(words)}
        trap 'umount {at}' EXIT
        ls {at}
        cat {at}/one | wc -c
    """
    said = run_program("unshare", "-m", "sh", "-c", script, env=crfs.environment)
    assert said.decode().split() == [*sorted(["dir", *NAMES]), str(LARGE)]
    crfs.expect_nothing()


@pytest.mark.parametrize("engine", ["fuse", "auto"])
def test_mount_that_another_namespace_has_too(source: str, crfs: Crfs, readers: Readers, engine: str) -> None:
    need_root()
    at = crfs.mount(source, "--engine", engine)
    (daemon,) = crfs.pids()
    script = "echo there; exec sleep 600"
    holder = readers.start("unshare", "-m", "--propagation", "private", "sh", "-c", script)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"there\n"
    done = crfs.run("umount", at)
    assert done.status == 1
    # whatever other namespaces were made meanwhile
    assert re.fullmatch(
        f"crfs: unmounted, but process {daemon} serves it on: "
        r"process \d+ has it in a mount namespace of its own\n",
        done.err,
    )
    assert list(at.iterdir()) == []
    assert crfs.pids() == [daemon]
    holder.kill()
    crfs.expect_nothing()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", [(), ("--foreground",)], ids=["background", "foreground"])
def test_interrupted_while_it_waits_for_a_registry(
    source: str, registry: Registry, crfs: Crfs, options: tuple[str, ...], number: signal.Signals
) -> None:
    with FaultProxy(f"http://{registry.address}", Stall(path="/blobs/")) as proxy:
        stalled = source.replace(registry.address, proxy.host)
        process = crfs.start("mount", stalled, crfs.new_directory(), *options)
        wait_until(lambda: proxy.count("GET", "/blobs/") > 0, 10)
        began = time.monotonic()
        process.send_signal(number)
        assert process.communicate(timeout=10) == ("", "")
        assert time.monotonic() - began < 5
        assert process.returncode == 128 + number
        crfs.expect_nothing()


def test_log_file_that_cannot_be_written(source: str, crfs: Crfs, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    at = crfs.new_directory()
    done = crfs.run("mount", source, at, "--log-file", tmp_path / "file/log")
    assert done.status == 0
    assert done.err == f"crfs: {tmp_path}/file/log: File exists; nothing will be logged\n"
    check(at, "one")


def test_log_file(source: str, crfs: Crfs, tmp_path: Path) -> None:
    at = crfs.mount(source, "--log-file", tmp_path / "new/log", "--log-level", "info")
    os.kill(crfs.daemon(), signal.SIGTERM)
    crfs.expect_nothing()
    logged = (tmp_path / "new/log").read_text()
    assert "SIGTERM: unmounting" in logged
    assert f"unmounting {at}" in logged
