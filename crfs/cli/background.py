"""Into the background, and a warm process for the commands that follow (crfs.mount.warm)."""

import contextlib
import importlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence

from crfs.cli.handedover import OVERLAYFS, flush
from crfs.mount import daemon
from crfs.mount.door import Door
from crfs.mount.handover import take_door

# programs that are handed over, and where their main() is
_PROGRAMS = {"crfs": "crfs.cli.main", OVERLAYFS: "crfs.cli.overlayfs"}
# what a mount needs sooner or later
_PRELOADED = (
    "crfs.cli.mount",
    "crfs.cli.erofs",
    "crfs.cli.upper",
    "crfs.cli.overlay",
    "crfs.cli.sources",
    "aiohttp",
    "crfs.blobs.ranges",
    "email.utils",
    "encodings.idna",
    "tomllib",
)


def run_in_background(work: Callable[[Callable[[int], None]], None], *, warm: bool = True) -> None:
    """daemon.run_in_background(); and leave a warm process, if that is ours to do and wanted."""
    with leaving_warm(wanted=warm):
        daemon.run_in_background(work)


@contextlib.contextmanager
def leaving_warm(*, wanted: bool = True) -> Iterator[int]:
    """While a mount is made, leave a warm process, if that is ours to do (crfs.mount.handover) and `wanted`.

    It stays for as long as somebody has the descriptor open, which children inherit; not where the mount fails.
    """
    lifeline, held = os.pipe()
    door = take_door()
    warm = None
    if door is not None:
        if wanted:
            # now: others who want a mount, too, wait for it
            warm = _fork_warm(lifeline, door)
            door.leave()
        else:
            door.close()
    os.close(lifeline)
    us = os.getpid()
    try:
        yield held
    except BaseException:
        if warm is not None and os.getpid() == us:
            os.kill(warm, signal.SIGTERM)
        raise
    finally:
        os.close(held)


def _fork_warm(lifeline: int, door: Door) -> int:
    """Leave a process behind, of which the caller's files are let go at once: somebody may wait for their end."""
    flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        from crfs.mount.warm import be_warm

        be_warm({name: _main(module) for name, module in _PROGRAMS.items()}, _preload, lifeline, door)
    finally:
        os._exit(0)


def _main(module: str) -> Callable[[Sequence[str]], int]:
    return lambda argv: int(importlib.import_module(module).main(argv))


def _preload() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
    importlib.import_module("crfs.cli.commands").build_parser("mount")
