"""Directories of containers: what each changes, and its bundle. One that has a name stays, all others go with the run.

    runs/ID, named/NAME     rootfs/ (mountpoint), upper/, work/, config.json, state/ and log (the runtime's), lock

A directory in use is locked by its process. What one that was killed has left is taken away by the next run.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from crfs.errors import MountError, UsageError
from crfs.integrations.runtime.engine import Runtime
from crfs.mount.mountpoint import find_mount

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
# over which image the changes lie
_IMAGE = "image"
# of what a run leaves in a directory that stays
_KEPT = ("upper", "work", _IMAGE, "lock")

TakeDown = Callable[[Path], None]


class Place(Struct, frozen=True):
    """The directory of one container; `name` is what the runtime calls it."""

    directory: Path
    name: str

    @property
    def rootfs(self) -> Path:
        """Where its root is mounted."""
        return self.directory / "rootfs"

    @property
    def is_new(self) -> bool:
        """Whether no container has run here yet."""
        return not (self.directory / _IMAGE).exists()

    def remember_runtime(self, runtime: Runtime) -> None:
        """For who has to clear up after us."""
        (self.directory / "runtime").write_text(runtime.program)

    def claim_image(self, digest: str, source: str) -> None:
        """Have it known over which image the changes lie; UsageError where they lie over another."""
        path = self.directory / _IMAGE
        with contextlib.suppress(FileNotFoundError):
            known, _, shown = path.read_text().partition(" ")
            if known != digest:
                raise UsageError(
                    f"{self.name} has changes over another image, {shown}: take another name, or remove "
                    f"{self.directory}"
                )
        path.write_text(f"{digest} {source}")


@contextlib.contextmanager
def opened_place(base: Path, name: str | None, keep: bool, take_down: TakeDown) -> Iterator[Place]:
    """A directory below `base`, empty or as the last run under that name has left it.

    `take_down` unmounts and waits; MountError. UsageError for a name that is in use, or none.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a container: letters, digits, and _ . - behind the first")
    for kind in ("runs", "named"):
        (base / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
    _sweep(base / "runs", take_down)
    place = Place(base / "runs" / f"crfs-{os.getpid()}-{os.urandom(4).hex()}", "")
    if name is not None:
        place = Place(base / "named" / name, name)
    place = Place(place.directory, place.directory.name)
    place.directory.mkdir(mode=0o700, exist_ok=name is not None)
    lock = _lock(place.directory)
    if lock is None:
        raise UsageError(f"{name} is running already")
    with os.fdopen(lock):
        try:
            # as a run that was killed may have left it
            _clear(place, keep=True, take_down=take_down)
            for part in ("rootfs", "upper", "work", "state"):
                (place.directory / part).mkdir(exist_ok=True)
            yield place
        finally:
            with _uninterrupted():
                _clear(place, keep=keep, take_down=take_down)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals come later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lock(directory: Path) -> int | None:
    """A file that is locked until it is closed, by this process and none that it starts; None: another has it."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _sweep(runs: Path, take_down: TakeDown) -> None:
    """Take away what killed processes have left; what can't be is left to the next."""
    for directory in runs.iterdir():
        with contextlib.suppress(OSError, MountError):
            lock = _lock(directory)
            if lock is not None:
                with os.fdopen(lock):
                    _clear(Place(directory, directory.name), keep=False, take_down=take_down)


def _clear(place: Place, *, keep: bool, take_down: TakeDown) -> None:
    """End the container, unmount its root, and remove the directory, or what need not stay of it."""
    with contextlib.suppress(OSError):
        Runtime((place.directory / "runtime").read_text(), place.directory).delete(place.name)
    if find_mount(place.rootfs) is not None:
        take_down(place.rootfs)
    if not keep:
        shutil.rmtree(place.directory)
        return
    for path in place.directory.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
