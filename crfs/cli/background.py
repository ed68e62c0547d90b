"""Into the background, and a warm process for the commands that follow.

A command that is handed over loads no more than this: what is needed by who does the work is imported there.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from crfs.mount.handover import DISABLE, hand_over

NO_SERVER = "--no-server"
OVERLAYFS = "crfs-overlayfs"
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
_FOREGROUND = {"-f", "-d", "-h", "-V", "--foreground", "--help", "--version", "--debug", NO_SERVER}


def hand_over_mount(program: str, argv: Sequence[str]) -> int | None:
    """The exit status of a mount that a warm process has made; None: there is none, or it isn't for one."""
    return None if _FOREGROUND & set(argv) else hand_over(program, argv)


def run_or_hand_over(program: str, argv: Sequence[str], run: Callable[[Sequence[str]], int]) -> None:
    """Our own command line, by a warm process or by `run`, to the end of this process."""
    status = hand_over_mount(program, argv)
    if status is None:
        status = run(argv)
    _flush()
    # to take an interpreter to pieces that has loaded all that a mount needs takes as long as the mount
    os._exit(status)


def run_in_background(work: Callable[[Callable[[int], None]], None], *, warm: bool = True) -> None:
    """daemon.run_in_background(); then leave a warm process, unless there is one or it isn't wanted."""
    from crfs.mount import daemon

    with leaving_warm(wanted=warm):
        daemon.run_in_background(work)


@contextlib.contextmanager
def leaving_warm(*, wanted: bool = True) -> Iterator[int]:
    """After a mount that is made meanwhile, leave a warm process, unless there is one or it isn't `wanted`.

    It stays for as long as somebody has the descriptor open, which children inherit.
    """
    lifeline, held = os.pipe()
    yield held
    os.close(held)
    if wanted and not os.environ.get(DISABLE):
        _fork_warm(lifeline)
    os.close(lifeline)


def _fork_warm(lifeline: int) -> None:
    """Leave a process behind, of which the caller's files are let go at once: somebody may wait for their end."""
    _flush()
    if os.fork():
        return
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        from crfs.mount.warm import be_warm

        be_warm({name: _main(module) for name, module in _PROGRAMS.items()}, _preload, lifeline)
    finally:
        os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # whoever read it has seen enough
            continue


def _main(module: str) -> Callable[[Sequence[str]], int]:
    return lambda argv: int(importlib.import_module(module).main(argv))


def _preload() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
