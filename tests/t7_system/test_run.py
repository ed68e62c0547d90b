"""`crfs run` as a user runs it, with crun and with runc: what the program sees, what comes out, and what is left."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dockerregistry import need_programs, need_root
from tests.support.layers import tree_entries
from tests.support.mounting import COMMAND, Crfs, Done, crfs_in, need_fuse
from tests.support.podman import OWN_NAMESPACE, PROGRAMS, fill_rootfs
from tests.t6_mount.images import estargz_layer, push

HOW = {
    "Entrypoint": ["sh", "-c"],
    "Cmd": ["echo from the image"],
    "Env": ["FROM=image", "BOTH=image", "PATH=/bin:/usr/bin"],
    "WorkingDir": "/made/here",
    "User": "user",
    "StopSignal": "SIGUSR1",
}
RUNTIMES = ["crun", "runc"]
GROUPS = "root:x:0:\nuser:x:1000:\nmore:x:44:other,user\nothers:x:45:other\n"


@dataclass(frozen=True, slots=True)
class Runs:
    """`crfs run` with one of the runtimes, in a place of its own."""

    crfs: Crfs
    runtime: str
    image: str

    def words(self, *words: str | Path, wrapper: tuple[str, ...] = ()) -> list[str]:
        """The command, in a mount namespace where crun finds one kind of cgroups."""
        own = ("unshare", "-m", "sh", "-c", OWN_NAMESPACE, "sh", *wrapper)
        return [*own, *COMMAND, "run", "--runtime", self.runtime, *map(str, words)]

    def __call__(self, *words: str | Path, wrapper: tuple[str, ...] = (), stdin: str = "") -> Done:
        """To its end; afterwards nothing is left of it."""
        done = subprocess.run(
            self.words(*words, wrapper=wrapper),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.crfs.environment,
            timeout=60,
        )
        self.expect_nothing()
        return Done(done.returncode, done.stdout, done.stderr)

    def sh(self, script: str, *options: str | Path) -> Done:
        """A script, by the image's entrypoint."""
        return self(*options, self.image, script)

    def start(self, *words: str | Path) -> "subprocess.Popen[str]":
        """Under way."""
        return subprocess.Popen(
            self.words(*words), stdout=subprocess.PIPE, text=True, env=self.crfs.environment
        )

    @property
    def containers(self) -> Path:
        return self.crfs.place / "state/crfs/containers"

    def expect_nothing(self) -> None:
        """No process, mount, state, temporary file, and no directory of a container without a name."""
        self.crfs.expect_nothing()
        assert not list((self.containers / "runs").glob("*"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_root()
    need_fuse()
    need_programs(["crun", "runc", "unshare", "setpriv"])
    root = tmp_path_factory.mktemp("tree")
    fill_rootfs(root, (*PROGRAMS, "id", "tty", "stty", "echo", "bash"))
    (root / "etc/group").write_text(GROUPS)
    (root / "etc/passwd").rename(root / "etc/real")
    # led out of the image if it were followed from outside
    (root / "etc/passwd").symlink_to("/etc/real")
    (root / "not-a-program").write_text("text\n")
    with Registry() as registry:
        yield push(registry.address, "run", estargz_layer(tree_entries(root)), how=HOW)


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, image: str) -> Iterator[Runs]:
    with crfs_in(tmp_path / "crfs") as crfs:
        yield Runs(crfs, getattr(request, "param", "crun"), image)


@pytest.mark.parametrize("run", RUNTIMES, indirect=True)
def test_as_the_image_says(run: Runs) -> None:
    assert run(run.image) == Done(0, "from the image\n", "")
    done = run.sh("pwd; id -u; id -G; echo $FROM $HOME; stat -c %u .; echo wrong >&2; exit 7")
    assert done == Done(7, "/made/here\n1000\n1000 44\nimage /\n1000\n", "wrong\n")
    done = run.sh("ls /sys/class/net; cat /etc/hosts")
    assert (
        done.out
        == "".join(f"{name}\n" for name in sorted(os.listdir("/sys/class/net")))
        + Path("/etc/hosts").read_text()
    )


def test_otherwise(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user says counts more than what the image says."""
    monkeypatch.setenv("OURS", "ours")
    options = ("-e", "BOTH=mine", "--env", "OURS", "-e", "NOT_SET", "--workdir", "/var/x", "--net", "none")
    done = run.sh("echo $FROM $BOTH $OURS ${NOT_SET-none}; pwd; ls /sys/class/net", *options)
    assert done == Done(0, "image mine ours none\n/var/x\nlo\n", "")
    assert run("--entrypoint", '["echo", "a b"]', run.image) == Done(0, "a b\n", "")
    assert run("--entrypoint", "", run.image, "cat", "/etc/group") == Done(0, GROUPS, "")
    done = run("-u", "root:more", "--entrypoint", "id", run.image, "-G")
    assert done == Done(0, "44\n", "")


@pytest.mark.parametrize("run", RUNTIMES, indirect=True)
def test_volumes_and_read_only(run: Runs, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("in\n")
    (tmp_path / "dir").mkdir()
    volumes = ("-v", f"{tmp_path}/in:/in:ro", "--volume", f"{tmp_path}/dir:/made/dir", "--user", "0")
    script = "cat /in; echo out > /made/dir/out; echo x > /in || echo kept; echo x > /etc/x && echo written"
    done = run.sh(script, *volumes)
    assert (done.status, done.out) == (0, "in\nkept\nwritten\n"), done
    assert (tmp_path / "dir/out").read_text() == "out\n"
    done = run.sh("echo x > /tmp/x; cat /tmp/x; echo x > /etc/x", "--read-only", "--user", "0")
    assert (done.status, done.out) == (2, "x\n"), done


def test_name_keeps_changes(run: Runs) -> None:
    mine = ("--name", "mine", "--user", "0")
    assert run.sh("echo kept > /kept", *mine) == Done(0, "", "")
    assert run.sh("cat /kept; echo more >> /kept", *mine) == Done(0, "kept\n", "")
    assert run.sh("cat /kept", "--name", "other").status == 1
    assert run.sh("cat /kept", "--rm", *mine) == Done(0, "kept\nmore\n", "")
    assert run.sh("cat /kept", "--rm", *mine).status == 1
    assert [path.name for path in (run.containers / "named").iterdir()] == ["other"]


def test_the_root_is_the_image_s_whatever_the_umask(run: Runs) -> None:
    masked = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    done = run("--name", "mine", "--rm", run.image, "stat -c '%a %u' /", wrapper=masked)
    assert done == Done(0, "755 0\n", "")


def test_name_is_of_one_run_and_one_image(run: Runs, tmp_path: Path) -> None:
    with run.start("--name", "mine", "--stop-timeout", "0.2", run.image, "echo up; sleep 60") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        second = subprocess.run(
            run.words("--name", "mine", run.image), capture_output=True, text=True, env=run.crfs.environment
        )
        assert (second.returncode, second.stdout, second.stderr) == (
            125,
            "",
            "crfs: mine is running already\n",
        )
        _stop(run, signal.SIGTERM)
        assert first.wait(30) == 128 + signal.SIGKILL
    (tmp_path / "other").mkdir()
    done = run("--name", "mine", tmp_path / "other", "sh")
    assert done.status == 125
    assert "mine has changes over another image" in done.err


def _stop(run: Runs, number: int) -> None:
    """A signal to the process of `crfs run` itself, as a supervisor sends it."""
    (pid,) = filter(_is_run, run.crfs.pids())
    os.kill(pid, number)


def _is_run(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"crfs.cli.main" in words and b"run" in words


@pytest.mark.parametrize("run", RUNTIMES, indirect=True)
def test_signals(run: Runs) -> None:
    """They reach the program; what asks for its end is the image's stop signal there, and then the end."""
    said = {signal.SIGHUP: "HUP", signal.SIGRTMIN + 3: "RTMIN+3", signal.SIGTERM: "USR1"}
    traps = "; ".join(f"trap 'echo {name}' {name}" for name in said.values())
    script = f"{traps}; echo up; while :; do sleep 0.05; done"
    options = ("--stop-timeout", "0.5", "--entrypoint", "bash")
    with run.start(*options, run.image, "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        for number, name in said.items():
            _stop(run, number)
            assert running.stdout.readline() == f"{name}\n"
        assert running.wait(30) == 128 + signal.SIGKILL
    run.expect_nothing()


def _on_terminal(run: Runs, words: list[str], typed: bytes = b"") -> tuple[bytes, int]:
    """What is said on a terminal, where keys are typed once it was `up`; and the exit status."""
    words = run.words(*words)
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(words[0], words, run.crfs.environment)
    said = b""
    with os.fdopen(terminal, "r+b", buffering=0) as file, contextlib.suppress(OSError):
        termios.tcsetwinsize(terminal, (33, 99))
        while more := file.read(1000):
            said += more
            if typed and b"up\r\n" in said:
                file.write(typed)
                typed = b""
    _, status = os.waitpid(pid, 0)
    run.expect_nothing()
    return said, os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("run", RUNTIMES, indirect=True)
def test_terminal(run: Runs) -> None:
    """Of a size of its own, and with the keys that end a program."""
    script = "tty; stty size; trap 'echo int; exit 6' INT; echo up; while :; do sleep 0.05; done"
    said, status = _on_terminal(run, ["-t", "-i", run.image, script], b"\x03")
    assert (said.split(), status) == (b"/dev/pts/0 33 99 up ^Cint".split(), 6)


@pytest.mark.parametrize("run", RUNTIMES, indirect=True)
def test_what_can_not_run(run: Runs) -> None:
    """The statuses that podman has."""
    assert run("--entrypoint", "nothing", run.image).status == 127
    assert run("--entrypoint", "/not-a-program", run.image).status == 126
    done = run("-u", "stranger", run.image)
    complaint = "crfs: the image has no user 'stranger': it is not in its /etc/passwd\n"
    assert (done.status, done.err) == (125, complaint)


def test_wrong_uses(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        run("--volume", "/nowhere:/x", run.image).err == "crfs: --volume /nowhere:/x: there is no /nowhere\n"
    )
    assert run("-t", run.image).err == "crfs: --tty: our standard input is no terminal\n"
    assert run("--no-such-option", run.image).status == 125
    assert run(run.image.replace("/run:", "/nothing:")).status == 125
    monkeypatch.setenv("PATH", str(run.crfs.place))
    done = run.crfs.run("run", run.image)
    complaint = "crfs: there is neither crun nor runc: install the package crun (or runc)\n"
    assert done == Done(125, "", complaint)


def test_one_that_was_killed_is_cleared_up_after(run: Runs) -> None:
    """By the next run: its container, its mount and its directory."""
    with run.start(run.image, "echo up; sleep 60") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        _stop(run, signal.SIGKILL)
    assert run(run.image) == Done(0, "from the image\n", "")


def test_a_copy_of_the_mount_in_another_namespace_keeps_nobody(run: Runs) -> None:
    with run.start("--stop-timeout", "0.1", run.image, "echo up; sleep 60") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        command = [
            "nsenter",
            "-t",
            str(running.pid),
            "-m",
            "unshare",
            "-m",
            "sh",
            "-c",
            "echo up; exec sleep 60",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"up\n"
            try:
                _stop(run, signal.SIGTERM)
                assert running.wait(30) == 128 + signal.SIGKILL
                run.expect_nothing()
            finally:
                other.kill()


def test_progress(run: Runs) -> None:
    """A line on a terminal, and nothing anywhere else."""
    said, status = _on_terminal(run, ["--progress", run.image, "sleep 0.5"])
    assert status == 0
    assert run("--progress", run.image) == Done(0, "from the image\n", "")
    assert re.search(rb"[\d.]+ MB of [\d.]+ MB fetched, \d+ requests, waited [\d.]+ s for it", said)


@pytest.mark.parametrize("ids", ["", "1000:200000:65536"])
def test_without_root(run: Runs, tmp_path: Path, ids: str) -> None:
    """As an ordinary user; /dev/fuse may be root's alone here, so the user has one of his own."""
    need_programs(["newuidmap"])
    user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    if subprocess.run([*user, "env", *COMMAND, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("crfs is installed where only root may look")
    (tmp_path / "dev").mkdir()
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    subprocess.run(["chown", "-R", "1000:1000", run.crfs.place], check=True)
    own = tmp_path / "dev"
    lines = [
        f"mount -t tmpfs none {own}",
        f"mknod -m 666 {own}/fuse c 10 229",
        f"mount --bind {own}/fuse /dev/fuse",
        f"echo {ids} > {own}/ids",
        *(f"touch /etc/{name}; mount --bind {own}/ids /etc/{name}" for name in ("subuid", "subgid")),
        f'exec {" ".join(user)} "$@"',
    ]
    name = "user" if ids else "0"
    script = "id -u; echo x > /tmp/x; stat -c %u /tmp/x /bin; exit 4"
    done = run("--user", name, run.image, script, wrapper=("sh", "-c", "\n".join(lines), "sh"))
    uid = "1000" if ids else "0"
    assert done == Done(4, f"{uid}\n{uid}\n0\n", "")
