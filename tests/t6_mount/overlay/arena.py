"""Where overlays are compared: a file system of its own, the stacks on it, and one side of a comparison.

    with arena_in(directory) as arena:
        side = Side.create(mounter, arena, arena.lowers("rich"), arena.new_directory())
        side.mount()
        side.call(Mkdir(b"new"))
        side.close()

One thread, as root.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fsops import Step
from tests.support.overlaymounts import FuseMount, Layers, Mount, Mounter
from tests.t6_mount.overlay.hand import Hand, Hands, hands
from tests.t6_mount.overlay.stacks import STACKS, build


@contextlib.contextmanager
def arena_in(directory: Path) -> Iterator[Arena]:
    """An arena on a tmpfs where that has user.* xattrs (Linux 6.6), else on what the directory is on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "crfs-tests", directory], check=True)
    mounted = True
    try:
        if not _has_user_xattrs(directory):
            subprocess.run(["umount", directory], check=True)
            mounted = False
        with hands() as source:
            yield Arena(directory, source, numbered=mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", directory], check=True)


def _has_user_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.probe", b"")
    except OSError:
        return False
    os.removexattr(directory, "user.probe")
    return True


@dataclass(slots=True)
class Arena:
    """Where pairs live: a directory on a file system of its own, the stacks on it, and who takes the steps."""

    base: Path
    hands: Hands
    numbered: bool
    cuts: int = 0
    _lowers: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    _pairs: int = 0

    def lowers(self, stack: str) -> tuple[Path, ...]:
        """The stack's directories, which all pairs share."""
        if stack not in self._lowers:
            self._lowers[stack] = build(STACKS[stack], self.base / "lower" / stack)
        return self._lowers[stack]

    def new_directory(self) -> Path:
        self._pairs += 1
        path = self.base / f"pair{self._pairs}"
        path.mkdir()
        return path

    def hand(self, root: Path | None, *, counted: bool = True) -> Hand:
        return self.hands.hand(root, numbered=self.numbered, counted=counted)


@dataclass(slots=True)
class Side:
    """One overlay and the process that uses it."""

    mounter: Mounter
    arena: Arena
    layers: Layers
    at: Path
    _mount: Mount | None = None
    _hand: Hand | None = None

    @classmethod
    def create(cls, mounter: Mounter, arena: Arena, lowers: tuple[Path, ...], base: Path) -> Side:
        """A side with an empty upper directory."""
        paths = [base / name for name in ("upper", "work", "merged")]
        for path in paths:
            path.mkdir(parents=True)
            path.chmod(0o755)
        return cls(mounter, arena, Layers(lowers, paths[0], paths[1]), paths[2])

    def mount(self, mounter: Mounter | None = None, *, counted: bool = True) -> None:
        """By its own mounter, or by another; `counted` as in `Place`."""
        self._mount = (mounter or self.mounter).mount(self.layers, self.at)
        self._hand = self.arena.hand(self.at, counted=counted)

    @property
    def upper(self) -> Path:
        """The upper directory."""
        assert self.layers.upper is not None
        return self.layers.upper

    @property
    def work(self) -> Path:
        """The work directory."""
        assert self.layers.work is not None
        return self.layers.work

    @property
    def pids(self) -> list[int]:
        """The processes of the daemon, where there is one."""
        return self._mount.pids if isinstance(self._mount, FuseMount) else []

    def left_over(self) -> list[Path]:
        """What takes space in the work directory: a whiteout is kept for use, and directories are its own."""
        return [path for path in self.work.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]

    def remount(self) -> None:
        """Unmount and mount again."""
        self.unmount()
        self.mount()

    @property
    def hand(self) -> Hand:
        """Who uses it, while it is mounted."""
        assert self._hand is not None
        return self._hand

    def call(self, *steps: Step) -> list[object]:
        return self.hand.call(*steps)

    def unmount(self) -> None:
        assert self._mount is not None
        self._close_hand()
        self._mount.unmount()
        self._mount = None

    def close(self) -> None:
        """Take everything down by force."""
        self._close_hand()
        if self._mount is not None:
            self._mount.kill()
            self._mount = None

    def _close_hand(self) -> None:
        if self._hand is not None:
            self._hand.close()
            self._hand = None


@contextlib.contextmanager
def mounted(mounter: Mounter, arena: Arena, lowers: tuple[Path, ...], base: Path) -> Iterator[Side]:
    """An overlay with an empty upper directory below `base`, gone afterwards."""
    side = Side.create(mounter, arena, lowers, base)
    try:
        side.mount()
        yield side
    finally:
        side.close()


def signature(roots: Sequence[Path]) -> dict[bytes, tuple[int, ...]]:
    """What changes when anybody writes to directories."""
    found = {}
    for root in roots:
        for directory, names, files in os.walk(os.fsencode(root)):
            for path in [directory, *(os.path.join(directory, name) for name in names + files)]:
                status = os.lstat(path)
                found[path] = _unchanging(status)
    return found


def _unchanging(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_ino, status.st_mode, status.st_nlink, size, status.st_mtime_ns, status.st_ctime_ns
