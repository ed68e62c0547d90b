"""What is known of each running mount: a small file per mount in the user's runtime directory.

Named by the mount's device number, which is unique among mounts that live. A file whose process is gone is
left over from a kill and is not believed.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from crfs.blobs.directories import runtime_directory


class MountState(msgspec.Struct, frozen=True):
    """A mount and the process that serves it; `started` is the process's start in clock ticks (proc(5))."""

    mountpoint: str
    source: str
    pid: int
    started: int


def _path(device: str) -> Path:
    return runtime_directory() / f"mount-{device.replace(':', '-')}.json"


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the name, in brackets, may hold anything; the start is the 20th field behind it
    return int(stat.rpartition(")")[2].split()[19])


def store_state(device: str, mountpoint: Path, source: str) -> None:
    """Say that this process serves the mount with that device number."""
    pid = os.getpid()
    state = MountState(str(mountpoint), source, pid, process_start(pid) or 0)
    path = _path(device)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = path.with_suffix(f".{pid}")
    staged.write_bytes(msgspec.json.encode(state))
    staged.rename(path)


def find_state(device: str) -> MountState | None:
    """The living process behind a mount, if it is known."""
    try:
        state = msgspec.json.decode(_path(device).read_bytes(), type=MountState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if process_start(state.pid) == state.started else None


def drop_state(device: str) -> None:
    """Forget a mount that has ended."""
    with contextlib.suppress(OSError):
        _path(device).unlink()
