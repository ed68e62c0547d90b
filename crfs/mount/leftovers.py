"""What killed processes have left in the runtime directory: states and sockets of mounts, and doors of servers.

Swept by the next mount, whatever the engine. A state is of use for as long as the mount is there for anybody to see:
by that it is known as lost.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crfs.blobs.directories import runtime_directory
from crfs.mount.state import drop_dead_state, find_state

_STATE = "mount-"
_DOORS = ("server-", "warm-")
_LOCK = ".lock"


def sweep() -> None:
    """Remove what is nobody's any more; whatever can't be told stays."""
    with contextlib.suppress(OSError):
        base = runtime_directory()
        names = os.listdir(base)
        for device in _gone({name.partition(".")[0] for name in names if name.startswith(_STATE)}):
            drop_dead_state(device)
        for name in names:
            if name.startswith(_DOORS) and name.endswith(_LOCK):
                with contextlib.suppress(OSError):
                    _close_dead_door(base / name)


def _gone(stems: set[str]) -> Sequence[str]:
    """Which devices, by the names of their states, have lost their process, and are mounted nowhere."""
    devices = [stem.removeprefix(_STATE).replace("-", ":") for stem in stems]
    here = _table("self")
    # most are mounted: then no state need be read
    dead = [device for device in devices if not _has(here, device) and find_state(device) is None]
    for table in _tables() if dead else ():
        dead = [device for device in dead if not _has(table, device)]
    return dead


def _has(table: bytes, device: str) -> bool:
    return f" {device} ".encode() in table


def _table(process: str) -> bytes:
    return Path("/proc", process, "mountinfo").read_bytes()


def _tables() -> Iterator[bytes]:
    """Of every mount namespace that can be seen, once."""
    seen = set()
    for name in os.listdir("/proc"):
        # many have ended by now, or are not ours to look at
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{name}/ns/mnt") if name.isdecimal() else None
            if namespace is not None and namespace not in seen:
                yield _table(name)
                seen.add(namespace)


def _close_dead_door(path: Path) -> None:
    """Of a process that listened at a socket beside a lock, which says that it lives."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # somebody else may have done so, and another one listen by now
        if os.stat(path).st_ino == os.fstat(lock).st_ino:
            path.with_suffix(".sock").unlink(missing_ok=True)
            path.unlink()
    finally:
        os.close(lock)
