"""Where built things are kept, and how a thing is built once and whole.

A build works in `NAME.partial` beside its target and is renamed when it's done, so what has the
target's name is complete. A lock file keeps two processes from building the same thing at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from benches.mountinfo import mounts_below

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """`$CRFS_BENCH_CACHE`, else the user's cache directory for crfs-benches; made if absent."""
    chosen = os.environ.get("CRFS_BENCH_CACHE") or platformdirs.user_cache_dir("crfs-benches")
    path = Path(chosen).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def once(target: Path, build: Callable[[Path], None]) -> Path:
    """The directory `target`, filled by `build(partial)` unless it is there already."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if not target.exists():
            _build(target, build)
    return target


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of `target`, a file beside it, against other processes."""
    with open(f"{target}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_tree(path: Path) -> None:
    """Remove a tree, unmounting first what is mounted in it, so that nothing outside of it is touched."""
    for mount in reversed(mounts_below(path)):
        subprocess.run(["umount", "-l", mount], check=True)
    if path.exists():
        shutil.rmtree(path)


def _build(target: Path, build: Callable[[Path], None]) -> None:
    partial = target.with_name(target.name + ".partial")
    remove_tree(partial)
    partial.mkdir()
    log.info("building %s", target)
    begun = time.monotonic()
    build(partial)
    partial.rename(target)
    log.info("built %s in %.0f s", target, time.monotonic() - begun)
