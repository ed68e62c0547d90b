"""Debian trees by debootstrap, and layers cut out of them by GNU tar."""

from __future__ import annotations

import os
from pathlib import Path

from benches.cache import cache_dir
from benches.commands import run

SUITE = "bookworm"

# nothing in a layer is younger than this, 2026-09-21; an older bound would change the times of sources, by
# which python recognises its compiled files
NEWEST = 1790000000

_LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/debconf", "var/cache/ldconfig")


def debootstrap(tree: Path, *include: str) -> None:
    """Fill `tree` with minbase and the packages named, less the package manager's caches and logs.

    The mounts that debootstrap makes and may forget end with the mount namespace it runs in.
    """
    debs = cache_dir() / "debs"
    debs.mkdir(exist_ok=True)
    options = ["--variant=minbase", f"--cache-dir={debs}"]
    if include:
        options.append(f"--include={','.join(include)}")
    run("unshare", "-m", "debootstrap", *options, SUITE, tree)
    for name in _LEFT_OUT:
        for directory, _, files in os.walk(tree / name):
            for file in files:
                os.unlink(os.path.join(directory, file))


def make_tar(tar: Path, tree: Path, *names: str, parents: tuple[str, ...] = ()) -> None:
    """Pack what lies at and below `names` in `tree`, sorted, and the bare directories `parents` before it."""
    options = ["--numeric-owner", "--sort=name", "--clamp-mtime", f"--mtime=@{NEWEST}"]
    alone = ["--no-recursion", *parents, "--recursion"] if parents else []
    run("tar", "-C", tree, *options, "-cf", tar, *alone, *names)


def chroot(tree: Path, *argv: str) -> str:
    """Run a program of the tree in the tree, with its /proc for as long as that takes."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    return run("unshare", "-m", "sh", "-c", script, tree, *argv)
