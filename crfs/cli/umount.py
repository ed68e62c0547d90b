"""`crfs umount DIR`: take a mount down and wait until nothing of it is left."""

import argparse
import os
import select
from pathlib import Path

from crfs.errors import MountError
from crfs.fuse.unmount import unmount
from crfs.mount.mountpoint import find_mount, resolve
from crfs.mount.state import drop_dead_state, find_state

_WAIT_SECONDS = 10


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
        _await_end(state.pid)
    drop_dead_state(mounted.device)


def _await_end(pid: int) -> None:
    """Until the process that served the mount is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(pidfd) as file:
        if not select.select([file], [], [], _WAIT_SECONDS)[0]:
            raise MountError(f"unmounted, but process {pid} has not ended after {_WAIT_SECONDS} s")
