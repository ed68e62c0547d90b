"""Overlays as different programs mount them: the kernel, fuse-overlayfs, and crfs-overlayfs. Root only; any thread.

    mount = KernelOverlay().mount(Layers((bottom, top), upper, work), directory)
    ...
    mount.unmount()

A mount that is taken down is down: when `unmount` returns, no daemon of it runs any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from benches.mounts import MOUNT

_MARK = "OVERLAY_TEST_MOUNT"
_SECONDS = 60.0


class MountFailed(Exception):
    """A command that mounts or unmounts failed, or did not come to an end; the text has its output."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The directories of one overlay; `lowers` bottom first. Without upper and work it is read-only."""

    lowers: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None

    @property
    def options(self) -> list[str]:
        """As mount(8) and its relatives want them: topmost first."""
        found = ["lowerdir=" + ":".join(str(path) for path in reversed(self.lowers))]
        if self.upper is not None:
            found.append(f"upperdir={self.upper}")
        if self.work is not None:
            found.append(f"workdir={self.work}")
        return found


class Mount(Protocol):
    """An overlay that is mounted."""

    @property
    def at(self) -> Path:
        """Where."""

    def unmount(self) -> None:
        """Take it down and wait for the end of its daemon; MountFailed if something still uses it."""

    def kill(self) -> None:
        """End it at once, as a crash would; never fails."""


class Mounter(Protocol):
    """A way to mount overlays."""

    @property
    def name(self) -> str:
        """What to call it in a report."""

    def missing(self) -> str | None:
        """Why it can't be used here, if so."""

    def mount(self, layers: Layers, at: Path, *options: str) -> Mount:
        """Mount, with more options if any; MountFailed says why not."""


@dataclass(frozen=True, slots=True)
class KernelOverlay:
    """The kernel's overlayfs. Only with `index` does it keep the hard links of lower files together.

    With `userxattr` it neither makes nor follows redirects. With `metacopy` what changes only a file's metadata copies
    no bytes.
    """

    index: bool = False
    metacopy: bool = False
    redirect: bool = True
    userxattr: bool = False
    name: str = "kernel"

    def missing(self) -> str | None:
        if "overlay" in Path("/proc/filesystems").read_text().split():
            return None
        done = subprocess.run(["modprobe", "overlay"], capture_output=True, text=True, check=False)
        return f"no overlayfs in this kernel: {done.stderr}" if done.returncode else None

    def mount(self, layers: Layers, at: Path, *options: str) -> KernelMount:
        words = [*layers.options, *options]
        if layers.upper is not None:
            words += [f"metacopy={_on(self.metacopy)}", f"index={_on(self.index)}"]
            words.append("userxattr" if self.userxattr else f"redirect_dir={_on(self.redirect)}")
        _mount_when_free([*MOUNT, "-t", "overlay", "-o", ",".join(words), "overlay", at])
        return KernelMount(at)


@dataclass(frozen=True, slots=True)
class KernelMount:
    """See `Mount`."""

    at: Path

    def unmount(self) -> None:
        _run(["umount", self.at])

    def kill(self) -> None:
        _detach(self.at)


@dataclass(frozen=True, slots=True)
class FuseOverlay:
    """A program with the command line of fuse-overlayfs, which goes to the background by itself.

    One that is not `silent` may say something although it succeeds. `options` are given to every mount.
    """

    program: Path
    name: str
    silent: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def missing(self) -> str | None:
        return None if self.program.exists() else f"there is no {self.program}"

    def mount(self, layers: Layers, at: Path, *options: str) -> FuseMount:
        words = ",".join([*layers.options, "suid", "dev", *self.options, *options])
        said, mount = _daemon([self.program, "-o", words, at], at, self.environment)
        if said and self.silent:
            mount.kill()
            raise MountFailed(f"{self.program} succeeds, but says: {said}")
        return mount


@dataclass(frozen=True, slots=True)
class CrfsEngine:
    """`crfs mount` with an engine of the kernel's. What it writes are the kernel's marks, and `kernel` is its like."""

    name: str
    environment: Mapping[str, str]
    kernel: KernelOverlay = field(default_factory=lambda: KernelOverlay(metacopy=True))

    def missing(self) -> str | None:
        return self.kernel.missing()

    def mount(self, layers: Layers, at: Path, *options: str) -> FuseMount:
        bottom, *above = layers.lowers
        return self.mount_source(bottom, replace(layers, lowers=tuple(above)), at)

    def mount_source(self, source: str | Path, layers: Layers, at: Path) -> FuseMount:
        """Whatever a source may be, with the layers over it."""
        words: list[str | Path] = ["mount", "--engine", self.name.removeprefix("crfs-"), "--no-server"]
        for lower in reversed(layers.lowers):
            words += ["--lower", lower]
        if layers.upper is not None and layers.work is not None:
            words += ["--upper", layers.upper, "--work", layers.work]
        said, mount = _daemon([_beside("crfs"), *words, source, at], at, self.environment)
        if said:
            mount.kill()
            raise MountFailed(f"crfs mount succeeds, but says: {said}")
        return mount


@dataclass(frozen=True, slots=True)
class FuseMount:
    """See `Mount`. The daemon is known by a variable in its environment."""

    at: Path
    mark: str

    @property
    def pids(self) -> list[int]:
        """The processes of the daemon."""
        return _marked(self.mark)

    def unmount(self) -> None:
        _run(["umount", self.at])
        deadline = time.monotonic() + _SECONDS
        while self.pids:
            if time.monotonic() > deadline:
                raise MountFailed(f"{self.at} is unmounted, and its daemon still runs: {self.pids}")
            time.sleep(0.005)

    def kill(self) -> None:
        _end(self.pids)
        _detach(self.at)


def _daemon(words: Sequence[str | Path], at: Path, environment: Mapping[str, str]) -> tuple[str, FuseMount]:
    """What a program has said that mounts there and leaves a daemon; MountFailed, with nothing left."""
    mark = uuid.uuid4().hex
    mount = FuseMount(at, f"{_MARK}={mark}")
    try:
        return _run(words, {**environment, _MARK: mark}), mount
    except MountFailed:
        mount.kill()
        raise


def _beside(program: str) -> Path:
    return Path(sys.executable).with_name(program)


def fuse_overlayfs() -> FuseOverlay:
    """Debian's fuse-overlayfs: known not to be perfect."""
    return FuseOverlay(Path("/usr/bin/fuse-overlayfs"), "fuse-overlayfs", silent=False)


def crfs_overlayfs(environment: Mapping[str, str]) -> FuseOverlay:
    """Our own, as installed beside this interpreter."""
    return FuseOverlay(_beside("crfs-overlayfs"), "crfs", environment=environment)


def crfs_userxattr(environment: Mapping[str, str]) -> FuseOverlay:
    """The same with the marks of who has no privileges."""
    return replace(crfs_overlayfs(environment), name="crfs-userxattr", options=("userxattr",))


def crfs_engine(engine: str, environment: Mapping[str, str]) -> CrfsEngine:
    """`crfs mount --engine`."""
    return CrfsEngine(f"crfs-{engine}", environment)


def mounters(environment: Mapping[str, str]) -> dict[str, Mounter]:
    """All of them, by name."""
    ours = crfs_overlayfs(environment), crfs_userxattr(environment)
    found: list[Mounter] = [KernelOverlay(), fuse_overlayfs(), *ours, crfs_engine("overlay", environment)]
    return {mounter.name: mounter for mounter in found}


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _run(words: Sequence[str | Path], environment: Mapping[str, str] = {}) -> str:
    """A command to its end and to that of its output, which is returned: it must succeed."""
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        start_new_session=True,
    )
    with process:
        try:
            said, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise MountFailed(f"{words} has not ended, or left its output open") from error
    if process.returncode:
        raise MountFailed(f"{' '.join(str(word) for word in words)}: status {process.returncode}: {said}")
    return said


def _mount_when_free(words: Sequence[str | Path]) -> None:
    """With an index an upper directory belongs to one mount, of which another mount namespace may have a copy yet."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            _run(words)
            return
        except MountFailed as error:
            if "already mounted" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _detach(at: Path) -> None:
    subprocess.run(["umount", "-l", at], capture_output=True, check=False)


def _marked(mark: str) -> list[int]:
    return [pid for pid in _all_pids() if mark.encode() in _environ(pid).split(b"\0")]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _end(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
