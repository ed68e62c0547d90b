"""Directories of this process's own, on which what only the kernel needs is mounted, and not for long.

Named by the process, so that those of a process that was killed can be told, and taken away, by the next one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from crfs.blobs.directories import runtime_directory
from crfs.mount.engines.kernel import detach
from crfs.mount.mountpoint import FSTYPE, PLACES, find_mount, is_dead
from crfs.mount.state import process_start


@contextlib.contextmanager
def private_place() -> Iterator[Path]:
    """An empty directory; with it goes whatever is mounted on it, and on what dead processes have left. OSError."""
    base = runtime_directory() / PLACES
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in os.listdir(base):
        if not _lives(name):
            _take_away(base / name)
    place = base / f"{os.getpid()}-{process_start(os.getpid())}"
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        _take_away(place)


def _lives(name: str) -> bool:
    pid, _, started = name.partition("-")
    return not pid.isdecimal() or str(process_start(int(pid))) == started


def _take_away(place: Path) -> None:
    """Of a place whose process is not seen, the mounts go only if nobody answers there."""
    paths = (*_below(place), place)
    if _lives(place.name) or not any(map(_answers, paths)):
        for path in paths:
            with contextlib.suppress(OSError):
                detach(os.fsencode(path))
    for path in paths:
        with contextlib.suppress(OSError):
            path.rmdir()


def _below(place: Path) -> list[Path]:
    """Places in a place; none in what is mounted there."""
    try:
        return [] if os.path.ismount(place) else [place / name for name in os.listdir(place)]
    except OSError:
        return []


def _answers(path: Path) -> bool:
    """Whether something is mounted there that a process serves."""
    mounted = find_mount(path)
    return mounted is not None and mounted.fstype == FSTYPE and not is_dead(path)
