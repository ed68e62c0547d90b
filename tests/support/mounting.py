"""The command `crfs` as a user runs it, in a place of its own, and the proof that nothing of it is left.

    with crfs_in(tmp_path) as crfs:
        root = crfs.mount("docker://127.0.0.1:5000/name:tag")
        ...read below root...

Cache, log, state and temporary files lie below the place, and every process that the commands leave behind
carries the place in its environment. At the end all mounts are taken down; whatever is left then is removed
by force, and fails the test. One thread at a time.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.dockerregistry import lacking

# -P: whatever the current directory has is not imported
COMMAND = (sys.executable, "-P", "-m", "crfs.cli.main")
FSTYPE = "fuse.crfs"
_PLACE = "CRFS_TEST_PLACE"
_SECONDS = 60.0
# how long a daemon whose mount is gone may take to end
_GRACE = 5.0


def need_fuse() -> None:
    """Skip the test where FUSE can't be used, but fail it in CI."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        lacking(f"/dev/fuse can't be opened: {error.strerror}")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def silent(self) -> bool:
        """Whether it succeeded and said nothing."""
        return (self.status, self.out, self.err) == (0, "", "")


@dataclass(frozen=True, slots=True)
class MountLine:
    """A line of mountinfo (proc(5))."""

    at: Path
    fstype: str
    source: str
    options: frozenset[str]


@dataclass(slots=True)
class Crfs:
    """See the module. `options` are given to every `mount` and `inspect`."""

    place: Path
    options: Sequence[str] = ()
    _children: list["subprocess.Popen[str]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "runtime"):
            (self.place / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What every command is run with."""
        place = str(self.place)
        places = {"HOME": "home", "XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state", "TMPDIR": "tmp"}
        places["XDG_RUNTIME_DIR"] = "runtime"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        return {**inherited, **{name: f"{place}/{value}" for name, value in places.items()}, _PLACE: place}

    @property
    def cache(self) -> Path:
        """The disk cache, where `--cache` doesn't say otherwise."""
        return self.place / "cache/crfs"

    @property
    def log(self) -> str:
        """What the daemons have logged so far."""
        path = self.place / "state/crfs/log/mount.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *words: str | Path, cwd: Path | None = None) -> "subprocess.Popen[str]":
        """A command under way; it is killed at the end if it still runs then."""
        process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            cwd=cwd,
            env=self.environment,
            start_new_session=True,
        )
        self._children.append(process)
        return process

    def run(self, *words: str | Path, cwd: Path | None = None, seconds: float = _SECONDS) -> Done:
        """A command to its end, and to that of its output: a daemon must have let go of it."""
        with self.start(*words, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(f"{words} has not ended, or left its output open, after {seconds} s")
        return Done(process.returncode, out, err)

    def mount(
        self, source: str | Path, *options: str | Path, at: Path | None = None, cwd: Path | None = None
    ) -> Path:
        """Mount, and see that it is done without a word; the mountpoint, `at` or a new one."""
        where = self.new_directory() if at is None else at
        done = self.run("mount", source, where, *self.options, *options, cwd=cwd)
        assert done.silent, f"{done}\n{self.log}"
        return where

    def umount(self, at: Path, *options: str) -> None:
        """Unmount, without a word."""
        done = self.run("umount", *options, at)
        assert done.silent, done

    def new_directory(self) -> Path:
        """An empty directory to mount on."""
        number = sum(1 for path in self.place.iterdir() if path.name.startswith("mnt"))
        path = self.place / f"mnt{number}"
        path.mkdir()
        return path

    def pids(self) -> list[int]:
        """The processes that run commands of this place, daemons above all."""
        mark = f"{_PLACE}={self.place}".encode()
        return [pid for pid in _all_pids() if mark in _environ(pid).split(b"\0")]

    def daemon(self) -> int:
        """The only process there is."""
        (pid,) = self.pids()
        return pid

    def mounts(self) -> list[MountLine]:
        """What is mounted in the place."""
        return [line for line in mount_table() if line.at.is_relative_to(self.place)]

    @property
    def runtime(self) -> Path:
        """The runtime directory; as root, that of all."""
        return Path("/run/crfs") if os.geteuid() == 0 else self.place / "runtime/crfs"

    def states(self) -> list[Path]:
        """State files of the place's mounts."""
        found = self.runtime.iterdir() if self.runtime.exists() else ()
        return [path for path in found if f"{self.place}/" in _text(path)]

    def leftovers(self) -> list[str]:
        """All that should not be there once nothing is mounted any more."""
        places = [self.place / "tmp", self.cache / "tmp"]
        scratch = [path for place in places if place.exists() for path in place.iterdir()]
        return [
            *(f"process {pid}: {_command_line(pid)}" for pid in self.pids()),
            *(f"mount {line.at!r}" for line in self.mounts()),
            *(f"state file {path}" for path in self.states()),
            *(f"temporary file {path}" for path in scratch),
        ]

    def expect_nothing(self, seconds: float = _GRACE) -> None:
        """Fail unless process, mount, state and temporary files are all gone, or will be in a moment."""
        wait_until(lambda: not self.leftovers(), seconds, lambda: "; ".join(self.leftovers()))

    def close(self) -> None:
        """Take everything down; fail where that needs force."""
        stubborn = [f"umount: {done.err}" for done in self._take_down() if done.status]
        for child in self._children:
            with child:
                child.kill()
        try:
            if not stubborn:
                self.expect_nothing()
        finally:
            self._force()
        assert not stubborn, stubborn

    def _take_down(self) -> list[Done]:
        return [self.run("umount", line.at) for line in reversed(self.mounts())]

    def _force(self) -> None:
        for line in reversed(self.mounts()):
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount", "-uz"]
            subprocess.run([*command, "--", line.at], check=False)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self.states():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def crfs_in(place: Path, *options: str) -> Iterator[Crfs]:
    """The commands, in `place`; afterwards, that nothing is left."""
    crfs = Crfs(place, options)
    try:
        yield crfs
    finally:
        crfs.close()


@dataclass(slots=True)
class Readers:
    """Programs that read, each a process of its own, so that a test can kill them; see `readers()`."""

    _running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, *words: str | Path) -> "subprocess.Popen[bytes]":
        """A program under way, its stdout and stderr to be read from pipes."""
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._running.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs. One that waits in the kernel for a mount ends with the mount."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
        for process in self._running:
            process.communicate(timeout=10)


@contextlib.contextmanager
def readers() -> Iterator[Readers]:
    """Readers that are gone afterwards."""
    found = Readers()
    try:
        yield found
    finally:
        found.close()


def run_program(
    *words: str | bytes | Path, cwd: Path | None = None, user: int | None = None, env: Mapping[str, str] = {}
) -> bytes:
    """Run another program to its end, in the C locale; its output. Fails with its words."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=cwd,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", **env},
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done
    return done.stdout


def wait_until(
    holds: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Return as soon as `holds()`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds} s: {explain()}")
        time.sleep(0.02)


def mount_table() -> list[MountLine]:
    """All mounts that this process sees, those of one place in the order in which they were made."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]
    return [_mount_line(line) for line in lines]


def _mount_line(line: bytes) -> MountLine:
    fields, _, tail = line.partition(b" - ")
    parts, (fstype, source, more) = fields.split(b" "), tail.split(b" ", 2)
    options = b",".join([parts[5], more]).decode(errors="replace").split(",")
    return MountLine(Path(_unescaped(parts[4])), fstype.decode(), _unescaped(source), frozenset(options))


def _unescaped(text: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text))


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
