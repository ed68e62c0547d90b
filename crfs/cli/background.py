"""Into the background, and a warm process for the commands that follow."""

import importlib
import os
from collections.abc import Callable, Sequence

from crfs.mount import daemon
from crfs.mount.handover import DISABLE, hand_over

NO_SERVER = "--no-server"
# programs that are handed over, and where their main() is
_PROGRAMS = {"crfs": "crfs.cli.main", "crfs-overlayfs": "crfs.cli.overlayfs"}
# what a mount needs sooner or later
_PRELOADED = (
    "crfs.cli.mount",
    "crfs.cli.upper",
    "crfs.cli.overlay",
    "crfs.cli.sources",
    "aiohttp",
    "email.utils",
    "tomllib",
)
_FOREGROUND = {"-f", "-d", "-h", "-V", "--foreground", "--help", "--version", "--debug", NO_SERVER}


def hand_over_mount(program: str, argv: Sequence[str]) -> int | None:
    """The exit status of a mount that a warm process has made; None: there is none, or it isn't for one."""
    return None if _FOREGROUND & set(argv) else hand_over(program, argv)


def run_in_background(work: Callable[[daemon.Ready], None], *, warm: bool = True) -> None:
    """daemon.run_in_background(); then leave a warm process, unless there is one or it isn't wanted."""
    # before the fork: what the child needs, a warm process needs as well
    importlib.import_module("crfs.cli.compose")
    warm = warm and not os.environ.get(DISABLE)
    lifeline, held = os.pipe()
    daemon.run_in_background(work)
    os.close(held)
    if warm:
        from crfs.mount.warm import fork_warm

        programs = {name: _main(module) for name, module in _PROGRAMS.items()}
        fork_warm(programs, _preload, lifeline)
    os.close(lifeline)


def _main(module: str) -> Callable[[Sequence[str]], int]:
    return lambda argv: int(importlib.import_module(module).main(argv))


def _preload() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
