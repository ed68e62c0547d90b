"""Mounts by the erofs engine that share one process: it comes with the first and goes with the last, and none is in the
way of another.
"""

import contextlib
import errno
import fcntl
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from crfs.mount.handover import DISABLE
from crfs.mount.joining import socket_path
from crfs.registry.server import Registry
from tests.support.erofsimages import need_kernel
from tests.support.faults import FaultProxy, Stall
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, Done, Readers, crfs_in, run_program, wait_until
from tests.t6_mount.images import FORMATS, estargz_layer, noise, noisy, push, write_layout
from tests.t6_mount.test_engines import fstype, places
from tests.t6_mount.test_warm import warm_processes

BLOBS = "/blobs/"
SIZE = 200_000


def entries(*names: str) -> list[Entry]:
    return [Dir("./"), File("same", b"same" * 1000), *(noisy(name, SIZE) for name in names)]


@pytest.fixture(scope="session")
def sources(registry: Registry) -> tuple[str, str]:
    """Two images that have a file in common."""
    need_kernel()
    one, two = (push(registry.address, name, estargz_layer(entries(name))) for name in ("one", "two"))
    return one, two


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crfs]:
    """Commands whose mounts may share a process, which is no other test's."""
    monkeypatch.delenv(DISABLE, raising=False)
    monkeypatch.setenv("PYTHON_SHARED_TEST", str(tmp_path))
    # processes are found by their environment, which a new title would be written over
    monkeypatch.setenv("SPT_NOENV", "1")
    with crfs_in(tmp_path / "shared", "--engine", "erofs") as commands:
        yield commands
        for line in commands.mounts():
            commands.umount(line.at)
        stop_warm(commands)


def stop_warm(crfs: Crfs) -> None:
    for pid in warm_processes(crfs):
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not warm_processes(crfs), 10)


def servers(crfs: Crfs) -> list[int]:
    """The processes that serve mounts."""
    warm = warm_processes(crfs)
    return [pid for pid in crfs.pids() if pid not in warm]


def expect_servers(crfs: Crfs, count: int) -> None:
    """Commands that have been answered may not have ended yet."""
    wait_until(lambda: len(servers(crfs)) == count, 10, lambda: str(servers(crfs)))


def mount_all(crfs: Crfs, sources: Sequence[str]) -> list[Path]:
    """Mounts that are begun at once."""
    where = [crfs.new_directory() for _ in sources]
    running = [
        crfs.start("mount", source, at, *crfs.options) for source, at in zip(sources, where, strict=True)
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert Done(process.returncode, out, err).silent, (out, err, crfs.log)
    return where


def check(at: Path) -> None:
    (name,) = {"one", "two"} & set(os.listdir(at))
    assert (at / name).read_bytes() == noise(name, SIZE)
    assert (at / "same").read_bytes() == b"same" * 1000


def test_many_begun_at_once_share_one_which_goes_with_the_last(
    shared: Crfs, sources: tuple[str, str]
) -> None:
    where = mount_all(shared, sources * 6)
    expect_servers(shared, 1)
    (pid,) = servers(shared)
    (place,) = Path("/run/crfs/trees").glob(f"{pid}-*")
    assert sorted(os.listdir(place)) == ["contents", "tree0", "tree1"]
    random.Random(1).shuffle(where)
    for number, at in enumerate(where):
        for other in where[number:]:
            check(other)
        if number % 2:
            run_program("umount", at)
        else:
            shared.umount(at)
            assert not [path for path in shared.states() if f'"{at}"' in path.read_text()]
    expect_servers(shared, 0)
    assert not [name for name in places() if name.startswith(f"{pid}-")]
    stop_warm(shared)
    shared.expect_nothing()


def test_what_the_kernel_has_found_outlives_it_and_the_next_is_another(
    shared: Crfs, sources: tuple[str, str]
) -> None:
    where = [shared.mount(source) for source in (*sources, sources[0])]
    (pid,) = servers(shared)
    check(where[0])
    os.kill(pid, signal.SIGKILL)
    expect_servers(shared, 0)
    for at in where:
        assert "its process is gone" in shared.run("status", at).out
        assert "same" in os.listdir(at)
    assert (where[0] / "one").read_bytes() == noise("one", SIZE)
    with pytest.raises(OSError) as lost:
        (where[1] / "two").read_bytes()
    assert lost.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    shared.mount(sources[1], at=where[1])
    check(where[1])
    # what was mounted by the one that was killed is its mounts' owners' to take down
    assert [line.at for line in shared.mounts()] == [where[0], where[2], where[1]]
    assert not [name for name in places() if name.startswith(f"{pid}-")]
    for at in where:
        shared.umount(at)
    expect_servers(shared, 0)


def test_what_it_has_left_goes_with_the_next_mount(shared: Crfs, sources: tuple[str, str]) -> None:
    """States, sockets and locks, the warm process's as well; not those of a mount that is still there."""
    gone, there = (shared.mount(source) for source in sources)
    wait_until(lambda: bool(warm_processes(shared)), 10)
    before = set(shared.runtime.iterdir())
    for pid in shared.pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not shared.pids(), 10)
    run_program("umount", "-l", gone)

    def doors() -> dict[str, Path]:
        locks = [path for path in before if path.suffix == ".lock" and not _is_locked(path)]
        return {path.name.partition("-")[0]: path for path in locks}

    # a process that is being killed has lost its environment before its files
    wait_until(lambda: doors().keys() == {"server", "warm"}, 10)
    left = doors().values()
    assert len(shared.states()) == 2
    at = shared.mount(sources[0], "--engine", "fuse", "--no-server")
    assert not [path for path in left if path.exists() or path.with_suffix(".sock").exists()]
    assert "its process is gone" in shared.run("status", there).out
    assert sorted(json.loads(path.read_text())["mountpoint"] for path in shared.states()) == [
        str(where) for where in (there, at)
    ]


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_one_that_ends_makes_room_for_the_next(shared: Crfs, sources: tuple[str, str]) -> None:
    """However a mount's end and another's beginning meet."""

    def again_and_again(number: int) -> None:
        for _ in range(4):
            done = shared.run("mount", sources[number], where[number], *shared.options)
            assert done.silent, f"{done}\n{shared.log}"
            check(where[number])
            shared.umount(where[number])
        ended.append(number)

    ended: list[int] = []
    where = [shared.new_directory() for _ in sources]
    threads = [threading.Thread(target=again_and_again, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [0, 1]
    expect_servers(shared, 0)
    assert not list(socket_path(b"").parent.glob("server-*.sock")) or not servers(shared)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whoever_goes_before_it_is_mounted_leaves_nothing(
    registry: Registry, shared: Crfs, sources: tuple[str, str], number: signal.Signals
) -> None:
    at = shared.mount(sources[0])
    expect_servers(shared, 1)
    with FaultProxy(f"http://{registry.address}", Stall(path=BLOBS)) as proxy:
        where = shared.new_directory()
        source = sources[1].replace(registry.address, proxy.host)
        process = shared.start("mount", source, where, *shared.options)
        wait_until(lambda: bool(proxy.seen("GET", BLOBS)), 20)
        process.send_signal(number)
        assert process.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
    expect_servers(shared, 1)
    assert not os.path.ismount(where)
    check(at)
    # and is in nobody's way
    shared.mount(sources[1], at=where)
    check(where)
    expect_servers(shared, 1)


def test_an_image_that_cannot_be_read_is_in_nobodys_way(
    registry: Registry, shared: Crfs, sources: tuple[str, str], readers: Readers
) -> None:
    with FaultProxy(f"http://{registry.address}") as proxy:
        stuck = shared.mount(sources[1].replace(registry.address, proxy.host), "--no-background-fetch")
        proxy.use(Stall(path=BLOBS))
        waiting = readers.start("cat", stuck / "two")
        wait_until(lambda: bool(proxy.seen("GET", BLOBS)), 20)
        at = shared.mount(sources[0])
        expect_servers(shared, 1)
        check(at)
        shared.umount(at)
        assert waiting.poll() is None
        waiting.kill()
        waiting.wait(20)
        shared.umount(stuck)
        expect_servers(shared, 0)


def test_the_registry_of_one_that_is_gone(registry: Registry, shared: Crfs, tmp_path: Path) -> None:
    """An equal file is read by way of the image whose bytes can be had."""
    source = write_layout(tmp_path / "layout", estargz_layer(entries("one")))
    with FaultProxy(f"http://{registry.address}") as proxy:
        pushed = push(registry.address, "gone", estargz_layer(entries("one", "two")))
        gone = shared.mount(pushed.replace(registry.address, proxy.host), "--no-background-fetch")
    shared.mount(source)
    assert (gone / "one").read_bytes() == noise("one", SIZE)


def test_serves_on_until_the_last_file_is_closed(shared: Crfs, sources: tuple[str, str]) -> None:
    at = shared.mount(sources[0])
    with (at / "one").open("rb") as file:
        shared.umount(at, "--lazy")
        expect_servers(shared, 1)
        assert file.read() == noise("one", SIZE)
    expect_servers(shared, 0)


def test_sigterm_ends_all(shared: Crfs, sources: tuple[str, str]) -> None:
    where = [shared.mount(source) for source in sources]
    # to close it is an error then
    with contextlib.suppress(OSError), (where[0] / "one").open("rb"):
        os.kill(servers(shared)[0], signal.SIGTERM)
        expect_servers(shared, 0)
    assert shared.mounts() == []


def test_a_tag_that_has_moved(registry: Registry, shared: Crfs) -> None:
    source = push(registry.address, "moves", estargz_layer(entries("one")))
    first = shared.mount(source)
    push(registry.address, "moves", estargz_layer(entries("two")))
    second, third = shared.mount(source), shared.mount(source, "--pull", "missing")
    expect_servers(shared, 1)
    assert [sorted(os.listdir(at)) for at in (first, second, third)] == [
        ["one", "same"],
        ["same", "two"],
        ["same", "two"],
    ]
    check(first)
    check(second)


def test_changes_are_each_mounts_own(shared: Crfs, sources: tuple[str, str], tmp_path: Path) -> None:
    where = []
    for name in ("a", "b"):
        upper, work = tmp_path / name / "upper", tmp_path / name / "work"
        for path in (upper, work):
            path.mkdir(parents=True)
        where.append(shared.mount(sources[0], "--upper", upper, "--work", work))
    expect_servers(shared, 1)
    (where[0] / "one").write_bytes(b"changed")
    check(where[1])
    shared.umount(where[0])
    assert (tmp_path / "a/upper/one").read_bytes() == b"changed"
    done = shared.run(
        "mount", sources[0], where[0], "--upper", tmp_path / "b/upper", "--work", tmp_path / "b/work",
        *shared.options,
    )  # fmt: skip
    assert "used by another mount" in done.err


def test_status_is_each_mounts_own(shared: Crfs, sources: tuple[str, str]) -> None:
    where = [shared.mount(source, "--no-background-fetch") for source in sources]
    check(where[0])
    shown = [shared.run("status", at, "--json").out for at in where]
    assert ['"requests":0' in text.replace(" ", "") for text in shown] == [False, False]
    assert all(str(at) in text and '"running"' in text for at, text in zip(where, shown, strict=True))


@pytest.mark.parametrize(
    "options", [("--log-level", "info"), ("--no-server",), ("--record", "trace"), ("--cache", "other")]
)
def test_not_shared(shared: Crfs, sources: tuple[str, str], tmp_path: Path, options: tuple[str, ...]) -> None:
    where = shared.mount(sources[0]), shared.mount(sources[0], *options, cwd=tmp_path)
    expect_servers(shared, 2)
    for at in where:
        check(at)
        shared.umount(at)
    assert (tmp_path / options[-1]).exists() or len(options) == 1 or options[-1] == "info"


def test_what_erofs_has_no_room_for_is_left_to_fuse(shared: Crfs, tmp_path: Path) -> None:
    large = [Dir("./"), File("large", b"l", xattrs={"user.large": b"v" * 65536}), File("a", b"a")]
    source = write_layout(tmp_path / "layout", FORMATS["gzip"](large))
    root = shared.new_directory()
    assert shared.run("mount", source, root).silent
    assert fstype(shared, root) == "fuse.crfs"
    expect_servers(shared, 1)
    done = shared.run("mount", source, shared.new_directory(), "--engine", "erofs")
    assert done.err == "crfs: the engine erofs can't be used: an extended attribute is too long for EROFS\n"


def test_should_fail_for_what_is_not_there(
    shared: Crfs, sources: tuple[str, str], registry: Registry
) -> None:
    for mounted in (False, True):
        done = shared.run(
            "mount", f"docker://{registry.address}/none:v1", shared.new_directory(), *shared.options
        )
        assert (done.status, done.err.startswith("crfs: ")) == (1, True)
        expect_servers(shared, int(mounted))
        shared.mount(sources[0])
        expect_servers(shared, 1)
