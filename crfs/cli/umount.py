"""`crfs umount DIR`: take a mount down and wait until nothing of it is left."""

import argparse
import contextlib
import os
import select
import signal
from pathlib import Path

from crfs.errors import MountError
from crfs.fuse.unmount import unmount
from crfs.mount.mountpoint import find_mount, find_other_namespace, resolve
from crfs.mount.state import drop_dead_state, find_state

_WAIT_SECONDS = 10
# one that nothing refers to any more has ended by then
_AWAY_SECONDS = 3


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
    """The same; wait for the process that served it, unless `lazy`."""
    where = resolve(path)
    mounted = find_mount(where)
    if mounted is None or not mounted.is_ours:
        raise MountError(f"{path}: no image is mounted here")
    state = find_state(mounted.device)
    unmount(where, lazy=lazy)
    if state and not lazy:
        _await_end(state.pid, mounted.device)
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
    if state and not _has_ended(state.pid, _AWAY_SECONDS):
        # a mount namespace that was made meanwhile has a copy of the mount
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
        _has_ended(state.pid, _WAIT_SECONDS)
    drop_dead_state(mounted.device)


def _await_end(pid: int, device: str) -> None:
    """Until the process that served the mount is gone. MountError where it has reason not to go, or does not."""
    if _has_ended(pid, _AWAY_SECONDS):
        return
    other = find_other_namespace(device)
    if other is not None:
        raise MountError(
            f"unmounted, but process {pid} serves it on: process {other} has it in a mount namespace of its own"
        )
    if not _has_ended(pid, _WAIT_SECONDS - _AWAY_SECONDS):
        raise MountError(f"unmounted, but process {pid} has not ended after {_WAIT_SECONDS} s")


def _has_ended(pid: int, seconds: float) -> bool:
    """Whether it ends within so many seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(pidfd) as file:
        return bool(select.select([file], [], [], seconds)[0])
