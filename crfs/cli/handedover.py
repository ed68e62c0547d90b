"""Our own command line: by a warm process, if there is one that may (crfs.mount.handover), or here.

A command that is handed over loads no more than this, so nothing is imported here that takes a while: collections.abc
and contextlib load half a dozen modules, _collections_abc is one that every interpreter has.
"""

import os
import sys
from _collections_abc import Callable, Sequence

from crfs.mount.handover import hand_over, take_door

NO_SERVER = "--no-server"
OVERLAYFS = "crfs-overlayfs"
_FOREGROUND = {"-f", "-d", "-h", "-V", "--foreground", "--help", "--version", "--debug", NO_SERVER}


def hand_over_mount(program: str, argv: Sequence[str]) -> int | None:
    """The exit status of a mount that a warm process has made; None: there is none, or it isn't for one."""
    return None if _FOREGROUND & set(argv) else hand_over(program, argv)


def run_or_hand_over(program: str, argv: Sequence[str], run: Callable[[Sequence[str]], int]) -> None:
    """Our own command line, by a warm process or by `run`, to the end of this process."""
    status = hand_over_mount(program, argv)
    if status is None:
        # late: not for a command that is handed over
        from crfs.cli.readahead import read_ahead

        read_ahead()
        try:
            status = run(argv)
        finally:
            door = take_door()
            if door is not None:
                # no warm process was left
                door.close()
    flush()
    # to take an interpreter to pieces that has loaded all that a mount needs takes as long as the mount
    os._exit(status)


def flush() -> None:
    """What was printed goes where it is to go."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # whoever read it has seen enough
            continue
