"""The place of a mount: may one be made here, is there one already, is it one of ours that has died?"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from crfs.blobs.directories import runtime_directory
from crfs.errors import MountError
from crfs.fuse.unmount import unmount
from crfs.mount.state import drop_dead_state, is_lost

FSTYPE = "fuse.crfs"
# below the runtime directory: where lower trees of kernel mounts are mounted, by a name that nothing else has
PLACES = "trees"


class Mounted(Struct, frozen=True):
    """A line of mountinfo (proc(5)): `device` is MAJOR:MINOR, `options` those of the file system."""

    device: str
    fstype: str
    source: str
    options: str

    @property
    def is_ours(self) -> bool:
        """Whether crfs has mounted it, by whichever engine."""
        return self.fstype == FSTYPE or (
            self.fstype == "overlay" and f"lowerdir={runtime_directory() / PLACES}/" in self.options
        )


def find_mount(path: Path) -> Mounted | None:
    """The topmost mount at exactly `path`, which must be absolute and free of symlinks."""
    wanted, found = os.fsencode(path), None
    for at, mounted in iter_mounts():
        if at == wanted:
            found = mounted
    return found


def iter_mounts() -> Iterator[tuple[bytes, Mounted]]:
    """All that is mounted where this process looks, in mountinfo's order, and where."""
    # bytes: str.splitlines() would also end a line at characters that a path may have in it
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        fields, _, tail = line.partition(b" - ")
        parts, (fstype, source, options) = fields.split(b" "), tail.split(b" ", 2)
        shown = (os.fsdecode(_unescape(field)) for field in (source, options))
        yield _unescape(parts[4]), Mounted(parts[2].decode(), fstype.decode(), *shown)


def find_other_namespace(device: str) -> int | None:
    """A process for which a file system is mounted still that isn't here; None where none can be seen."""
    for name in os.listdir("/proc"):
        # many have ended by now, or are not ours to look at
        with contextlib.suppress(OSError):
            if name.isdigit() and f" {device} ".encode() in Path("/proc", name, "mountinfo").read_bytes():
                return int(name)
    return None


def _unescape(text: bytes) -> bytes:
    """mountinfo writes blanks, newlines and backslashes as octal."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)


def claim(path: Path, *, nonempty: bool) -> Path:
    """`path` without symlinks, fit to be mounted on; a dead mount of ours is taken away first.

    MountError where it is missing, no directory, not empty, or has an image mounted already.
    """
    where = resolve(path)
    mounted = find_mount(where)
    if mounted and mounted.is_ours:
        # one whose names are the kernel's does not show that its server is gone
        if not is_dead(where) and not (mounted.fstype == "overlay" and is_lost(mounted.device)):
            raise MountError(f"{path}: {mounted.source} is mounted here already")
        unmount(where, lazy=True)
        drop_dead_state(mounted.device)
    try:
        with os.scandir(where) as names:
            if not nonempty and next(names, None) is not None:
                raise MountError(f"{path}: the directory is not empty (-o nonempty mounts over it)")
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}") from error
    return where


def resolve(path: Path) -> Path:
    """`path`, absolute and without symlinks, also where the mount on it is dead."""
    absolute = os.path.abspath(path)
    if find_mount(Path(absolute)) is not None:
        # without a look at it, which a server that hangs would not answer
        return Path(absolute)
    parent, name = os.path.split(absolute)
    try:
        # the last component may be a dead mount, on which even lstat fails
        if os.path.islink(absolute):
            return Path(os.path.realpath(absolute, strict=True))
        return Path(os.path.realpath(parent, strict=True), name)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}") from error


def is_dead(path: Path) -> bool:
    """Whether the mount at `path` has lost its server."""
    try:
        # a name that nobody has asked for: what the kernel remembers does not answer, nor what lies over the server's
        os.lstat(path / f".crfs-{os.urandom(8).hex()}")
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
