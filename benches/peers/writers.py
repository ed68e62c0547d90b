"""Who makes a stack of directories writable: each mounts the same lower ones under a new upper one. Needs root."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benches import images, mounts
from benches.commands import run
from benches.peers.peer import version_of
from benches.place import Source


@dataclass(frozen=True, slots=True)
class Stack:
    """Directories on disk; `lowers` bottom first."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path

    def options(self) -> str:
        """As overlayfs takes them."""
        lowers = ":".join(str(lower) for lower in reversed(self.lowers))
        return f"lowerdir={lowers},upperdir={self.upper},workdir={self.work}"


@dataclass(frozen=True, slots=True)
class Writer:
    """A program that mounts a stack, `command` being its words; what it mounts is of the type `kind`."""

    name: str
    kind: str
    ask_version: Callable[[], str]
    command: Callable[[Stack, Path], list[str]]

    def version(self) -> str:
        return self.ask_version()

    def prepare(self, image: str, source: Source) -> None:
        images.lower_dirs(image)

    def mounted(self, stack: Stack, at: Path) -> AbstractContextManager[mounts.Mount]:
        """The stack, writable, its upper and work directories new."""
        stack.upper.mkdir()
        stack.work.mkdir()
        environment = {"CRFS_NO_SERVER": "1"}
        return mounts.mounted(at, self.kind, self.command(stack, at), ["umount", str(at)], env=environment)


def crfs_writer(name: str, *options: str, kind: str = "fuse.crfs") -> Writer:
    """`crfs mount` with options of its own: another engine is another peer."""

    def command(stack: Stack, at: Path) -> list[str]:
        *above, bottom = (str(lower) for lower in reversed(stack.lowers))
        lowers = [word for lower in above for word in ("--lower", lower)]
        changes = ["--upper", str(stack.upper), "--work", str(stack.work)]
        return [mounts.crfs_program(), "mount", *lowers, *changes, *options, bottom, str(at)]

    return Writer(name, kind, lambda: version_of(mounts.crfs_program()), command)


CRFS = crfs_writer("crfs", "--engine", "fuse")
CRFS_OVERLAY = crfs_writer("crfs-overlay", "--engine", "overlay", kind="overlay")
FUSE_OVERLAYFS = Writer(
    "fuse-overlayfs",
    "fuse.fuse-overlayfs",
    lambda: version_of("fuse-overlayfs"),
    lambda stack, at: ["fuse-overlayfs", "-o", stack.options(), str(at)],
)
OVERLAYFS = Writer(
    "overlayfs",
    "overlay",
    lambda: f"Linux {run('uname', '-r').strip()}",
    lambda stack, at: ["mount", "-t", "overlay", "overlay", "-o", stack.options(), str(at)],
)
