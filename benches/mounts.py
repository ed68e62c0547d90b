"""Mount a tree by crfs or by one of its peers for the length of a block. Needs root.

A mount is proven to be of the type it should be, and is gone after its block, whatever happened in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.commands import CommandFailed, run
from benches.mountinfo import find_mount, mount_type
from benches.processes import await_end, with_word
from crfs.mount.engines.places import private_place
from crfs.mount.leftovers import sweep as sweep_leftovers

# mount(8) by mount(2): fsconfig(2), which newer ones prefer, takes no more than 255 bytes of layers
MOUNT = ("env", "LIBMOUNT_FORCE_MOUNT2=always", "mount")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted tree, or a plain directory, whose `kind` is then its filesystem's type."""

    path: Path
    kind: str


class WrongMount(Exception):
    """What is mounted isn't what a bench asked for, or nothing is."""


def crfs_program() -> str:
    """`$CRFS_PROGRAM`, else the crfs beside this Python."""
    return os.environ.get("CRFS_PROGRAM") or str(Path(sys.executable).with_name("crfs"))


@contextmanager
def crfs(
    ref: str,
    at: Path,
    cache: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    kind: str | None = None,
) -> Iterator[Mount]:
    """Mount the image `ref` (HOST:PORT/REPOSITORY:TAG, plain HTTP) with the disk cache `cache`.

    `env` is added to the environment of `crfs mount`. Without a `kind`, whatever engine it takes will do.
    """
    words = ["mount", f"docker://{ref}", str(at), "--tls-verify=false", "--cache", str(cache), *options]
    unmount = [crfs_program(), "umount", str(at)]
    kinds = ("fuse.crfs", "overlay") if kind is None else (kind,)
    with mounted(at, kinds, [crfs_program(), *words], unmount, env=env) as mount:
        found = find_mount(at)
        if found is None or ref not in found.source:
            raise WrongMount(f"{at} is of {found and found.source}, not of {ref}")
        yield mount


@contextmanager
def fuse_overlayfs(lowers: Sequence[Path], at: Path) -> Iterator[Mount]:
    """Mount lower directories, bottom first, read-only by fuse-overlayfs."""
    argv = ["fuse-overlayfs", "-o", f"lowerdir={_stack(lowers)}", str(at)]
    with mounted(at, "fuse.fuse-overlayfs", argv, ["umount", str(at)]) as mount:
        yield mount


@contextmanager
def overlay(lowers: Sequence[Path], at: Path) -> Iterator[Mount]:
    """Mount lower directories, bottom first, read-only by the kernel's overlayfs."""
    argv = [*MOUNT, "-t", "overlay", "overlay", "-o", f"ro,lowerdir={_stack(lowers)}", str(at)]
    with mounted(at, "overlay", argv, ["umount", str(at)]) as mount:
        yield mount


@contextmanager
def directory(path: Path) -> Iterator[Mount]:
    """A tree on a disk, as it is."""
    yield Mount(path, run("stat", "-f", "-c", "%T", path).strip())


def daemons(at: Path) -> list[int]:
    """The processes with the mount point as a word of their command line, this one left out."""
    return with_word(at)


def sweep() -> None:
    """Take away what killed processes of crfs's have mounted and left in /run/crfs, as the next mount would."""
    with private_place():
        sweep_leftovers()


def drop_caches() -> None:
    """Make the kernel forget pages, dentries and inodes, its writes being done."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


@contextmanager
def mounted(
    at: Path,
    kind: str | tuple[str, ...],
    mount: list[str],
    unmount: list[str],
    *,
    env: Mapping[str, str] | None = None,
) -> Iterator[Mount]:
    """What the program `mount` mounts at a path, which must be of a type in `kind`, until the block ends."""
    at.mkdir(parents=True, exist_ok=True)
    try:
        run_detached(mount, env)
        found = mount_type(at)
        if found is None or found not in ((kind,) if isinstance(kind, str) else kind):
            raise WrongMount(f"{at} is {found}, not {kind}, after {mount}")
        yield Mount(at, found)
    finally:
        _unmount(at, unmount)


def run_detached(argv: list[str], env: Mapping[str, str] | None = None) -> None:
    """Run a program that leaves a daemon: a pipe would stay open after its end, so its words go to a file."""
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **(env or {})},
            check=False,
        )
        said.seek(0)
        if done.returncode:
            words = said.read(4000).decode(errors="replace").strip()
            raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}: {words}")


def _unmount(at: Path, unmount: list[str]) -> None:
    if mount_type(at) is None:
        return
    left = daemons(at)
    done = subprocess.run(unmount, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    if mount_type(at) is not None:
        subprocess.run(["umount", "-l", str(at)], check=False)
        raise WrongMount(f"{unmount} left {at} mounted: exit {done.returncode}, {done.stderr!r}")
    await_end(left)  # what runs next shall not share the machine with a daemon's last work


def _stack(lowers: Sequence[Path]) -> str:
    return ":".join(str(lower) for lower in reversed(lowers))
