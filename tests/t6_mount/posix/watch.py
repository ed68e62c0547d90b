"""A step, and what it did to what it names: which attributes and times of the objects and their directories moved.

Taken on two file systems, the answers can be compared as they are.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.fsops import Failed, HandleUtime, Place, Step, Utime, run_step

# what is written, and what is read, by Opened
_DATA = b"0123456789"
# CLOCK_REALTIME_COARSE, of which file systems take their times
_COARSE = 5


@dataclass(frozen=True, slots=True, repr=False)
class Watched(Step):
    """`step`, taken in the directory `top`; answers its answer, and the changes."""

    top: bytes
    step: Step

    def run(self, place: Place) -> object:
        os.chdir(self.top)
        try:
            paths = _watched(self.step)
            before = {path: _status(path) for path in paths}
            _pass_tick(before.values())
            answer = run_step(self.step, place)
            timed = isinstance(self.step, Utime)
            changes = {path: _change(before[path], _status(path), timed=timed) for path in paths}
            return answer, {path: change for path, change in changes.items() if change is not None}
        finally:
            os.chdir("/")


def _pass_tick(statuses: Iterable[os.stat_result | None]) -> None:
    """Wait until what changes from now on has another time than what has changed already."""
    newest = max(
        (max(each.st_mtime_ns, each.st_ctime_ns) for each in statuses if each is not None), default=0
    )
    while newest >= time.clock_gettime_ns(_COARSE) and newest < time.time_ns() + 10**9:
        time.sleep(0.0005)


def _named(step: Step) -> set[bytes]:
    """The names in a step, what they lead to, and other names of the same."""
    found = set()
    for path in (getattr(step, name) for name in ("source", "path") if hasattr(step, name)):
        plain = path.rstrip(b"/")
        found |= {plain, plain + b"/."}
    if any(path.endswith(b"twin") for path in found):
        found |= {b"twin", b"home/twin"}
    return found


def _watched(step: Step) -> list[bytes]:
    """The names in a step, and the directories above."""
    named = _named(step)
    return sorted({b".", *named, *(os.path.dirname(path.removesuffix(b"/.")) or b"." for path in named)})


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=path.endswith(b"/."))
    except OSError:
        return None


def _change(
    before: os.stat_result | None, after: os.stat_result | None, *, timed: bool = False
) -> list[str] | None:
    """What is other than it was, in words that do not depend on when; None where nothing is.

    Access times count where they are `timed`, of other than symlinks: each file system has its own idea of when
    something has been read.
    """
    if after is None or before is None:
        return None if before is after else [f"{_kind(before)} to {_kind(after)}", *_facts(after)]
    facts = [fact for old, fact in zip(_facts(before), _facts(after), strict=True) if old != fact]
    if before.st_ino != after.st_ino:
        return ["another", *_facts(after)]
    timed = timed and not stat.S_ISLNK(after.st_mode)
    for name in ("st_atime_ns", "st_mtime_ns")[not timed :]:
        if getattr(before, name) != getattr(after, name):
            facts.append(f"{name[3:]} {when(getattr(after, name))}")
    if before.st_ctime_ns != after.st_ctime_ns:
        facts.append("ctime")
    return facts or None


def when(at_ns: int) -> str:
    """A time, or just that it is a recent one."""
    return "now" if at_ns >= 1_750_000_000 * 10**9 and at_ns < 1 << 62 else str(at_ns)


def _kind(status: os.stat_result | None) -> str:
    return "nothing" if status is None else stat.filemode(status.st_mode)[0]


def _facts(status: os.stat_result | None) -> list[str]:
    if status is None:
        return []
    directory = stat.S_ISDIR(status.st_mode)
    return [
        stat.filemode(status.st_mode),
        f"uid {status.st_uid}",
        f"gid {status.st_gid}",
        f"rdev {status.st_rdev}",
        "" if directory else f"size {status.st_size}",
        "" if directory else f"nlink {status.st_nlink}",
    ]


@dataclass(frozen=True, slots=True, repr=False)
class OpenFile(Step):
    """`step`, which is one of a handle's; answers its answer, and what fstat(2) says changed."""

    handle: int
    step: Step

    def run(self, place: Place) -> object:
        before = os.fstat(place.handle(self.handle))
        _pass_tick([before])
        answer = run_step(self.step, place)
        timed = isinstance(self.step, HandleUtime)
        return answer, _change(before, os.fstat(place.handle(self.handle)), timed=timed)


@dataclass(frozen=True, slots=True, repr=False)
class Opened(Step):
    """Open, write and read what may be, close; no time in between at which anybody could see half of it."""

    path: bytes
    flags: int
    mode: int = 0o644

    def run(self, place: Place) -> object:
        descriptor = os.open(self.path, self.flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, self.mode)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return [
                _tried(lambda: os.read(descriptor, 100)),
                _tried(lambda: os.write(descriptor, _DATA)),
            ] * regular
        finally:
            os.close(descriptor)


def _tried(call: object) -> object:
    assert callable(call)
    try:
        return call()
    except OSError as error:
        return Failed(str(error.errno))
