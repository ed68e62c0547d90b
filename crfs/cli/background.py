"""Into the background, and a warm process for the commands that follow (crfs.mount.warm)."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence

from crfs.cli.handedover import OVERLAYFS, flush
from crfs.mount import daemon
from crfs.mount.handover import DISABLE

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
    """daemon.run_in_background(); then leave a warm process, unless there is one or it isn't wanted."""
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
    flush()
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


def _main(module: str) -> Callable[[Sequence[str]], int]:
    return lambda argv: int(importlib.import_module(module).main(argv))


def _preload() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
    importlib.import_module("crfs.cli.commands").build_parser("mount")
