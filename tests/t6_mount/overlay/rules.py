"""Random steps: hypothesis chooses which call, with what arguments, on which names."""

from __future__ import annotations

import functools
import itertools
import os
import stat
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support import fsops
from tests.support.fsops import Step
from tests.t6_mount.overlay.machine import NAMES, Draw, OverlayMachine, of
from tests.t6_mount.overlay.pair import Remount

TARGETS = (b"file", b"dir", b"../file", b"/dir/sub", b"nowhere", b"/", b".", b"x/user", b"t" * 1000)
USERS = (0, 0, 0, 0, 1000, 1000, 1001)
IDS = (-1, 0, 1000, 1001, 2000)
MODES = (0o644, 0o600, 0o666, 0o755, 0o777, 0o000, 0o1777, 0o2755, 0o2775, 0o4755, 0o6777, 0o444)
NODES = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK)
DEVICES = ((1, 3), (1, 3), (0, 0), (7, 200))
SIZES = (0, 1, 5, 12, 100, 4096, 5000, 131_072, 200_000, 1_100_000)
DATA = (b"x", b"written\n", b"0123456789" * 10, b"\0" * 50)
TIMES = ("now", "now", "omit", "omit", 0, -1, 999_999_999, 1_234_567_890_123_456_789, 2**31 * 10**9 + 1)
XATTRS = ("user.a", "user.b", "user.empty", "trusted.t", "trusted." + "n" * 200, "security.s", "unknown.x")
VALUES = (b"", b"v", b"value\0with zero", b"V" * 1000)
ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
# most of the time, what programs use; sometimes all there is
USUAL_FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_WRONLY,
    os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_APPEND | os.O_CREAT,
    os.O_RDWR | os.O_TRUNC,
)
ALL_FLAGS = tuple(
    functools.reduce(int.__or__, flags, access)
    for access in ACCESS
    for number in range(7)
    for flags in itertools.combinations(
        (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW), number
    )
)


def taken(choose: Callable[[Any, Draw], Step]) -> Callable[..., None]:
    """Make a rule of a function that chooses a step."""

    @functools.wraps(choose)
    def take(self: OverlayMachine, data: st.DataObject) -> None:
        self.take(choose(self, data.draw))

    made: Callable[..., None] = rule(data=st.data())(take)
    return made


class RandomSteps(OverlayMachine):
    """All rules. What each needs of the calls' manners is in the steps of `fsops`."""

    # ---- open files

    @taken
    def open(self, draw: Draw) -> Step:
        return self._open(draw)

    @taken
    def open_another(self, draw: Draw) -> Step:
        return self._open(draw)

    @taken
    def open_directory(self, draw: Draw) -> Step:
        return fsops.Open(_handle(draw), self.path(draw, "d"), os.O_RDONLY | os.O_DIRECTORY, user=_user(draw))

    @taken
    def close(self, draw: Draw) -> Step:
        return fsops.Close(_handle(draw))

    @taken
    def read(self, draw: Draw) -> Step:
        return fsops.Read(_handle(draw), draw(of(SIZES)), draw(of((None, *SIZES))))

    @taken
    def write(self, draw: Draw) -> Step:
        return self._write(draw)

    @taken
    def write_more(self, draw: Draw) -> Step:
        return self._write(draw)

    @taken
    def seek(self, draw: Draw) -> Step:
        return fsops.Seek(_handle(draw), draw(of(SIZES)), draw(of((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))))

    @taken
    def map_write(self, draw: Draw) -> Step:
        return fsops.MapWrite(_handle(draw), draw(of(DATA)), draw(of(SIZES)))

    @taken
    def map_read(self, draw: Draw) -> Step:
        return fsops.MapRead(_handle(draw))

    @taken
    def handle_stat(self, draw: Draw) -> Step:
        return fsops.HandleStat(_handle(draw))

    @taken
    def handle_truncate(self, draw: Draw) -> Step:
        return fsops.HandleTruncate(_handle(draw), draw(of(SIZES)))

    @taken
    def handle_sync(self, draw: Draw) -> Step:
        return fsops.HandleSync(_handle(draw), _flag(draw))

    @taken
    def handle_attribute(self, draw: Draw) -> Step:
        handle, user, choice = _handle(draw), _user(draw), draw(of(range(3)))
        if choice == 0:
            return fsops.HandleChmod(handle, draw(of(MODES)), user=user)
        if choice == 1:
            return fsops.HandleChown(handle, draw(of(IDS)), draw(of(IDS)), user=user)
        return fsops.HandleUtime(handle, draw(of(TIMES)), draw(of(TIMES)), user=user)

    @taken
    def handle_xattr(self, draw: Draw) -> Step:
        if _flag(draw):
            return fsops.HandleXattrs(_handle(draw), user=_user(draw))
        name, value = draw(of(XATTRS)), draw(of(VALUES))
        return fsops.HandleSetXattr(_handle(draw), name, value, _flag(draw), user=_user(draw))

    @taken
    def handle_list(self, draw: Draw) -> Step:
        return fsops.HandleList(_handle(draw))

    @taken
    def within(self, draw: Draw) -> Step:
        """A step in an open directory, which may have been moved or removed since."""
        name, user = draw(of((*NAMES, b"."))), _user(draw)
        steps = (
            fsops.Stat(name, user=user),
            fsops.ListDirectory(name, user=user),
            fsops.Open(_handle(draw), name, os.O_RDWR | os.O_CREAT, user=user),
            fsops.Mkdir(name, user=user),
            fsops.Unlink(name, user=user),
            fsops.Rename(name, draw(of(NAMES)), user=user),
            fsops.Symlink(draw(of(TARGETS)), name, user=user),
            fsops.Chmod(name, draw(of(MODES)), user=user),
        )
        return fsops.Within(_handle(draw), draw(of(steps)))

    def _open(self, draw: Draw) -> Step:
        flags = draw(of(ALL_FLAGS if draw(of(range(4))) == 0 else USUAL_FLAGS))
        path = self.target(draw) if flags & os.O_CREAT and _flag(draw) else self.path(draw, "-l")
        return fsops.Open(_handle(draw), path, flags, draw(of(MODES)), user=_user(draw))

    def _write(self, draw: Draw) -> Step:
        times = draw(of((1, 1, 1, 50, 3000)))
        return fsops.Write(_handle(draw), draw(of(DATA)), times, draw(of((None, *SIZES))))

    # ---- making, moving and removing names

    @taken
    def mkdir(self, draw: Draw) -> Step:
        return fsops.Mkdir(self.target(draw), draw(of(MODES)), user=_user(draw))

    @taken
    def mknod(self, draw: Draw) -> Step:
        kind, device = draw(of(NODES)), draw(of(DEVICES))
        major, minor = device if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0)
        return fsops.Mknod(self.target(draw), kind | draw(of(MODES)), major, minor, user=_user(draw))

    @taken
    def symlink(self, draw: Draw) -> Step:
        return fsops.Symlink(draw(of(TARGETS)), self.target(draw), user=_user(draw))

    @taken
    def link(self, draw: Draw) -> Step:
        return fsops.Link(self.path(draw, "-lpcs"), self.target(draw), user=_user(draw))

    @taken
    def unlink(self, draw: Draw) -> Step:
        return fsops.Unlink(self.path(draw, "-lpcs"), user=_user(draw))

    @taken
    def rmdir(self, draw: Draw) -> Step:
        return fsops.Rmdir(self.path(draw, "d"), user=_user(draw))

    @taken
    def remove_tree(self, draw: Draw) -> Step:
        return fsops.RemoveTree(self.path(draw, "d"), user=_user(draw))

    @taken
    def rename(self, draw: Draw) -> Step:
        target = self.target(draw) if _flag(draw) else self.path(draw)
        return fsops.Rename(self.path(draw), target, user=_user(draw))

    @taken
    def rename_directory(self, draw: Draw) -> Step:
        target = self.target(draw) if _flag(draw) else self.path(draw, "d")
        return fsops.Rename(self.path(draw, "d"), target, user=_user(draw))

    # ---- attributes

    @taken
    def chmod(self, draw: Draw) -> Step:
        return fsops.Chmod(self.path(draw), draw(of(MODES)), user=_user(draw))

    @taken
    def chown(self, draw: Draw) -> Step:
        return fsops.Chown(self.path(draw), draw(of(IDS)), draw(of(IDS)), _flag(draw), user=_user(draw))

    @taken
    def utime(self, draw: Draw) -> Step:
        return fsops.Utime(self.path(draw), draw(of(TIMES)), draw(of(TIMES)), _flag(draw), user=_user(draw))

    @taken
    def truncate(self, draw: Draw) -> Step:
        return fsops.Truncate(self.path(draw, "-l"), draw(of(SIZES)), user=_user(draw))

    @taken
    def set_xattr(self, draw: Draw) -> Step:
        create, replace = draw(of(((False, False), (False, False), (True, False), (False, True))))
        name, value = draw(of(XATTRS)), draw(of(VALUES))
        return fsops.SetXattr(self.path(draw), name, value, create, replace, _flag(draw), user=_user(draw))

    @taken
    def get_xattr(self, draw: Draw) -> Step:
        return fsops.GetXattr(self.path(draw), draw(of(XATTRS)), _flag(draw), user=_user(draw))

    @taken
    def list_xattr(self, draw: Draw) -> Step:
        return fsops.ListXattr(self.path(draw), _flag(draw), user=_user(draw))

    @taken
    def remove_xattr(self, draw: Draw) -> Step:
        return fsops.RemoveXattr(self.path(draw), draw(of(XATTRS)), _flag(draw), user=_user(draw))

    # ---- looking

    @taken
    def stat(self, draw: Draw) -> Step:
        return fsops.Stat(self.path(draw), _flag(draw), user=_user(draw))

    @taken
    def readlink(self, draw: Draw) -> Step:
        return fsops.Readlink(self.path(draw, "l"), user=_user(draw))

    @taken
    def list_directory(self, draw: Draw) -> Step:
        return fsops.ListDirectory(self.path(draw, "d"), user=_user(draw))

    @taken
    def read_while(self, draw: Draw) -> Step:
        """Names come and go while the directory is read."""
        directory = self.existing(draw, "d")
        names = [*self.children(directory), *(os.path.join(directory, name) for name in NAMES)]
        steps = tuple(
            self._disturb(draw, draw(of(names)), draw(of(names))) for _ in range(draw(of((1, 3, 6))))
        )
        return fsops.ReadWhile(directory, steps, draw(of((64, 300, 4096))))

    def _disturb(self, draw: Draw, name: bytes, other: bytes) -> Step:
        steps = (fsops.Unlink(name), fsops.Rename(name, other), fsops.Mkdir(name), fsops.Chmod(name, 0o700))
        found: Step = draw(of(steps))
        return found

    @taken
    def access(self, draw: Draw) -> Step:
        return fsops.Access(self.path(draw), draw(of(range(8))), user=_user(draw))

    @taken
    def look(self, draw: Draw) -> Step:
        return fsops.Look(self.path(draw))

    @taken
    def statvfs(self, draw: Draw) -> Step:
        return fsops.Statvfs(self.path(draw)) if draw(of(range(20))) else Remount()


def _user(draw: Draw) -> int:
    found: int = draw(of(USERS))
    return found


def _handle(draw: Draw) -> int:
    found: int = draw(of(range(5)))
    return found


def _flag(draw: Draw) -> bool:
    found: bool = draw(st.booleans())
    return found
