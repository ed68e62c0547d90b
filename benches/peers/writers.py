"""Who makes an image writable under a new upper directory. Needs root.

Each mounts the directories of its layers; an engine of crfs's that is the kernel's, the image, with everything in the
cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benches import images, mounts
from benches.commands import run
from benches.peers.peer import version_of
from benches.place import Source
from benches.programs import read_whole


@dataclass(frozen=True, slots=True)
class Stack:
    """An image, and the directories of its layers, bottom first."""

    image: str
    lowers: tuple[Path, ...]
    upper: Path
    work: Path

    def options(self) -> str:
        """As overlayfs takes them."""
        lowers = ":".join(str(lower) for lower in reversed(self.lowers))
        return f"lowerdir={lowers},upperdir={self.upper},workdir={self.work}"


@dataclass(frozen=True, slots=True)
class Writer:
    """A program that mounts a stack, `command` being its words; what it mounts is of a type in `kind`."""

    name: str
    kind: str | tuple[str, ...]
    ask_version: Callable[[], str]
    command: Callable[[Stack, Path], list[str]]
    # what is mounted, read and taken down before the first time, so that nothing has to be fetched
    warm_up: Callable[[Stack, Path], list[str]] | None = None
    warm_kind: str | tuple[str, ...] = "fuse.crfs"

    def version(self) -> str:
        return self.ask_version()

    def prepare(self, image: str, source: Source) -> None:
        images.lower_dirs(image)
        images.layout(image)

    def mounted(self, stack: Stack, at: Path) -> AbstractContextManager[mounts.Mount]:
        """The stack, writable, its upper and work directories new."""
        stack.upper.mkdir()
        stack.work.mkdir()
        environment = {"CRFS_NO_SERVER": "1"}
        if self.warm_up is not None and not _cache(self.name, at).exists():
            words, unmount = self.warm_up(stack, at), [mounts.crfs_program(), "umount", str(at)]
            with mounts.mounted(at, self.warm_kind, words, unmount, env=environment) as warm:
                read_whole(warm.path)
        return mounts.mounted(at, self.kind, self.command(stack, at), ["umount", str(at)], env=environment)


def _cache(name: str, at: Path) -> Path:
    """The disk cache of all runs of a peer, whose place is a directory below."""
    return at.parent.with_name(f"{name}-cache")


def crfs_writer(name: str, *options: str, kind: str = "fuse.crfs") -> Writer:
    """`crfs mount` with options of its own: another engine is another peer."""

    def command(stack: Stack, at: Path) -> list[str]:
        *above, bottom = (str(lower) for lower in reversed(stack.lowers))
        lowers = [word for lower in above for word in ("--lower", lower)]
        changes = ["--upper", str(stack.upper), "--work", str(stack.work)]
        return [mounts.crfs_program(), "mount", *lowers, *changes, *options, bottom, str(at)]

    return Writer(name, kind, lambda: version_of(mounts.crfs_program()), command)


def crfs_image_writer(name: str, engine: str, warm: str, kinds: tuple[str, ...]) -> Writer:
    """`crfs mount` of an OCI layout, by an engine of the kernel's; `warm` is the one that reads everything before."""

    def mount(stack: Stack, at: Path, *options: str) -> list[str]:
        cache, source = str(_cache(name, at)), f"oci:{images.layout(stack.image)}:plain"
        return [mounts.crfs_program(), "mount", "--cache", cache, "--engine", *options, source, str(at)]

    def warm_up(stack: Stack, at: Path) -> list[str]:
        return mount(stack, at, warm)

    def command(stack: Stack, at: Path) -> list[str]:
        return mount(stack, at, engine, "--upper", str(stack.upper), "--work", str(stack.work))

    version = partial(version_of, mounts.crfs_program())
    return Writer(name, kinds, version, command, warm_up, kinds)


# of an image, as root, the engine that is taken for want of another name is the kernel's EROFS
CRFS = crfs_image_writer("crfs", "auto", "auto", ("overlay", "fuse.crfs"))
CRFS_OVERLAY = crfs_image_writer("crfs-overlay", "overlay", "fuse", ("overlay", "fuse.crfs"))
CRFS_FUSE = crfs_writer("crfs-fuse", "--engine", "fuse")
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
    lambda stack, at: [*mounts.MOUNT, "-t", "overlay", "overlay", "-o", stack.options(), str(at)],
)
