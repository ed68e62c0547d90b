"""Commands that are handed over to a warm process: they do what they would do by themselves, and it goes away."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.mount import handover
from crfs.mount.handover import DISABLE, identity
from crfs.mount.warm import IDLE_SECONDS
from crfs.registry.server import Registry
from tests.support.dockerregistry import need_root
from tests.support.faults import FaultProxy, Stall
from tests.support.layers import Entry
from tests.support.mounting import COMMAND, Crfs, crfs_in, wait_until
from tests.t6_mount.images import estargz_layer, noise, noisy, push

FUSE = ("--engine", "fuse")
ENTRIES: list[Entry] = [noisy(name, 5000) for name in ("one", "two")]


@pytest.fixture(scope="session")
def source(registry: Registry) -> str:
    return push(registry.address, "warm", estargz_layer(ENTRIES))


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crfs]:
    """Commands that may hand over; the warm process ends with its last mount."""
    monkeypatch.delenv(DISABLE, raising=False)
    # part of the identity, so that no other test's process is met
    monkeypatch.setenv("PYTHON_WARM_TEST", str(tmp_path))
    # processes are found by their environment, which a new title would be written over
    monkeypatch.setenv("SPT_NOENV", "1")
    # each mount with a process of its own
    with crfs_in(tmp_path / "warm", *FUSE) as commands:
        yield commands
        for line in commands.mounts():
            commands.umount(line.at)
        for pid in warm_processes(commands):
            os.kill(pid, signal.SIGTERM)
        commands.expect_nothing()


def titles(crfs: Crfs) -> list[str]:
    """What the processes of the place call themselves."""
    return [_title(pid) for pid in crfs.pids()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        # it has ended meanwhile
        return ""


def warm_processes(crfs: Crfs) -> list[int]:
    return [pid for pid in crfs.pids() if _title(pid).startswith("crfs: warm")]


def wait_for_warm(crfs: Crfs) -> int:
    """Until it listens, which it does before it gets its name."""
    wait_until(lambda: bool(warm_processes(crfs)), 10, lambda: str(titles(crfs)))
    (pid,) = warm_processes(crfs)
    return pid


def check(at: Path) -> None:
    assert (at / "one").read_bytes() == noise("one", 5000)


def test_what_is_handed_over_loads_next_to_nothing() -> None:
    # -S: what a machine's own sitecustomize loads is its business
    words = ("-S", "-c", "import sys, crfs.cli.main, crfs.cli.overlayfs; print(*sys.modules)")
    root = Path(handover.__file__).parents[2]
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=True)
    assert not {"argparse", "collections", "contextlib", "importlib", "re", "typing"} & set(
        done.stdout.split()
    )


def test_second_mount_is_made_by_it_and_it_ends_with_the_last(source: str, warm: Crfs) -> None:
    first = warm.mount(source)
    pid = wait_for_warm(warm)
    second = warm.mount(source)
    check(first)
    check(second)
    assert any(title.startswith(f"crfs mount {source} {second} ") for title in titles(warm))
    assert warm_processes(warm) == [pid]
    warm.umount(first)
    check(second)
    assert warm_processes(warm) == [pid]
    warm.umount(second)
    warm.expect_nothing(IDLE_SECONDS + 5)


def test_mounts_at_once_wait_for_the_one_that_the_first_leaves(source: str, warm: Crfs) -> None:
    places = [warm.new_directory() for _ in range(6)]
    started = [warm.start("mount", *FUSE, source, where) for where in places]
    assert [process.wait(30) for process in started] == [0] * len(started)
    wait_for_warm(warm)
    assert sum(title.startswith("crfs mount ") for title in titles(warm)) == len(places) - 1
    for where in places:
        check(where)


def test_mounts_that_wait_for_one_that_fails_are_made_all_the_same(source: str, warm: Crfs) -> None:
    """The first has opened the door and is stopped before it leaves anybody there."""
    where = warm.new_directory()
    command = [COMMAND[0], "-P", "-c", _OPENS_AND_ENDS]
    with subprocess.Popen(command, env=warm.environment, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"\n"
        second = warm.start("mount", *FUSE, source, where)
        assert first.stdout.readline() == b"\n"
    assert second.wait(30) == 0
    check(where)


def test_directory_environment_and_umask_are_the_caller_s(source: str, warm: Crfs) -> None:
    warm.mount(source)
    wait_for_warm(warm)
    where = warm.new_directory()
    environment = {**warm.environment, "XDG_CACHE_HOME": str(warm.place / "other")}
    argv = [*COMMAND, "mount", source, where.name]
    subprocess.run(argv, cwd=warm.place, env=environment, check=True, umask=0o077)
    check(where)
    assert (warm.place / "other/crfs").is_dir()


@pytest.mark.parametrize(
    ("words", "status"),
    [(["docker://127.0.0.1:1/none:1"], 1), (["--no-such-option", "docker://127.0.0.1:1/none:1"], 2)],
)
def test_failures_are_told_to_the_caller(source: str, warm: Crfs, words: list[str], status: int) -> None:
    where = warm.new_directory()
    cold = warm.run("mount", *words, where)
    warm.mount(source)
    wait_for_warm(warm)
    assert warm.run("mount", *words, where) == cold
    assert cold.status == status
    assert cold.err


def test_failed_mount_leaves_none(warm: Crfs) -> None:
    assert warm.run("mount", "docker://127.0.0.1:1/none:1", warm.new_directory()).status == 1
    # who was to serve it ends when it has told of the failure
    wait_until(lambda: not warm.pids(), 10, lambda: str(titles(warm)))


@pytest.mark.parametrize("how", ["option", "variable"])
def test_none_where_it_is_not_wanted(
    source: str, warm: Crfs, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv(DISABLE, "1")
    warm.mount(source, *(["--no-server"] if how == "option" else []))
    assert len(warm.pids()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_caller_ends_the_mount(
    registry: Registry, source: str, warm: Crfs, number: signal.Signals
) -> None:
    warm.mount(source)
    pid = wait_for_warm(warm)
    # what lies below the manifest may be in the cache by now
    with FaultProxy(f"http://{registry.address}", Stall(path="/manifests/")) as proxy:
        where = warm.new_directory()
        process = warm.start("mount", *FUSE, source.replace(registry.address, proxy.host), where)
        # a mount, the warm process, the caller, and the mount that isn't one yet
        wait_until(lambda: len(warm.pids()) == 4, 10, lambda: str(titles(warm)))
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    wait_until(lambda: len(warm.pids()) == 2, 10, lambda: str(titles(warm)))
    assert warm_processes(warm) == [pid]
    assert not os.path.ismount(where)


# a command that opens the door for a warm process, and ends when somebody has come
_OPENS_AND_ENDS = """
import select
from crfs.mount.door import open_door
from crfs.mount.handover import identity, socket_path
door = open_door(socket_path(identity()))
print(flush=True)
select.select([door.listener], [], [])
print(flush=True)
door.close()
"""
# a warm process that is ended when it has just been told to begin
_ENDED_AT_GO = """
import os, socket
from crfs.mount.handover import GO, READY, identity, socket_path
path = socket_path(identity())
os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
    listener.bind(path)
    listener.listen()
    print(flush=True)
    connection, _ = listener.accept()
    os.unlink(path)
    connection.recv(1 << 20)
    connection.sendall(READY)
    assert connection.recv(1) == GO
"""


def test_what_has_not_begun_is_done_without_it(source: str, warm: Crfs) -> None:
    command = [COMMAND[0], "-P", "-c", _ENDED_AT_GO]
    with subprocess.Popen(command, env=warm.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        check(warm.mount(source))
        assert process.wait(10) == 0


def test_killed_one_is_replaced(source: str, warm: Crfs) -> None:
    at = warm.mount(source)
    os.kill(wait_for_warm(warm), signal.SIGKILL)
    wait_until(lambda: not warm_processes(warm), 10, lambda: "")
    second = warm.mount(source)
    wait_for_warm(warm)
    check(at)
    check(second)


def test_identity_is_that_of_the_namespace() -> None:
    need_root()
    code = "from crfs.mount.handover import identity; import sys; sys.stdout.buffer.write(identity())"
    same = subprocess.run([COMMAND[0], "-P", "-c", code], check=True, capture_output=True).stdout
    other = subprocess.run(
        ["unshare", "-m", COMMAND[0], "-P", "-c", code], check=True, capture_output=True
    ).stdout
    assert same != other
    assert same.split(b"\n")[0] == identity().split(b"\n")[0]
