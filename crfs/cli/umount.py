"""`crfs umount DIR`: take a mount down and wait until nothing of it is left."""

import argparse
import contextlib
import os
import select
import signal
import time
from pathlib import Path

from crfs.errors import MountError
from crfs.fuse.unmount import unmount
from crfs.mount.mountpoint import find_mount, find_other_namespace, resolve
from crfs.mount.state import MountState, drop_dead_state, find_state, serves_others

_WAIT_SECONDS = 10
# one that nothing refers to any more has ended by then
_AWAY_SECONDS = 3
_LOOK_SECONDS = 0.005


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="the mountpoint")
    parser.add_argument(
        "-l", "--lazy", action="store_true", help="detach now; what is still open stays readable until closed"
    )


def run(args: argparse.Namespace) -> int:
    """Unmount; MountError where DIR is no mount of ours, or is in use."""
    take_down(args.dir, lazy=args.lazy)
    return 0


def take_down(path: Path, *, lazy: bool = False) -> None:
    """The same; wait until the process that served it is done with it, unless `lazy`."""
    where = resolve(path)
    mounted = find_mount(where)
    if mounted is None or not mounted.is_ours:
        raise MountError(f"{path}: no image is mounted here")
    state = find_state(mounted.device)
    unmount(where, lazy=lazy)
    if state and not lazy:
        _await_end(mounted.device, state)
    drop_dead_state(mounted.device)


def take_away(where: Path) -> None:
    """Take down what is mounted there, whoever uses it, and end its process; MountError."""
    mounted = find_mount(where)
    if mounted is None:
        return
    state = find_state(mounted.device)
    try:
        unmount(where)
    except MountError:
        unmount(where, lazy=True)
    if (
        state
        and not _has_ended(mounted.device, state, _AWAY_SECONDS)
        and not serves_others(mounted.device, state)
    ):
        # a mount namespace that was made meanwhile has a copy of the mount
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
        _has_ended(mounted.device, state, _WAIT_SECONDS)
    drop_dead_state(mounted.device)


def _await_end(device: str, state: MountState) -> None:
    """Until nobody serves the mount any more. MountError where there is reason to go on, or it does not end."""
    if _has_ended(device, state, _AWAY_SECONDS):
        return
    other = find_other_namespace(device)
    if other is not None:
        raise MountError(
            f"unmounted, but process {state.pid} serves it on: "
            f"process {other} has it in a mount namespace of its own"
        )
    if not _has_ended(device, state, _WAIT_SECONDS - _AWAY_SECONDS):
        raise MountError(f"unmounted, but process {state.pid} has not ended after {_WAIT_SECONDS} s")


def _has_ended(device: str, state: MountState, seconds: float) -> bool:
    """Whether the process behind a mount ends within so many seconds, or goes on with others and is done with this."""
    try:
        pidfd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return True
    until = time.monotonic() + seconds
    with os.fdopen(pidfd) as file:
        while not select.select([file], [], [], _LOOK_SECONDS)[0]:
            now = time.monotonic()
            is_known = find_state(device) == state
            # others that it serves may be on their way, and not known yet
            if not is_known and (serves_others(device, state) or now > until - seconds + _AWAY_SECONDS):
                return True
            if now > until:
                return False
    return True
