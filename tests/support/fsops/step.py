"""What a step is, and the place at which it is run. Used by one thread, as root: `user` is whose rights a step has."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

# other uids that steps run as: the primary group, and the others
GROUPS = {1000: (1000, []), 1001: (1001, [2000])}
FLAGS = {
    name: int(getattr(os, name))
    for name in (
        "O_WRONLY",
        "O_RDWR",
        "O_CREAT",
        "O_EXCL",
        "O_TRUNC",
        "O_APPEND",
        "O_DIRECTORY",
        "O_NOFOLLOW",
    )
}
# one or two bytes, over and over
_RUN = re.compile(rb"(.{1,2}?)\1{15,}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that failed."""

    errno: str


@dataclass(slots=True)
class Place:
    """What a process has of a tree: open files by number, and the inode numbers it has seen, in their order.

    With `numbered`, descriptions tell which inodes are the same, so that one that changes its number shows.
    That works where a number is never used twice. With `counted` they have the numbers of links of files. Times
    after `since_ns` are all the same.
    """

    numbered: bool = True
    counted: bool = True
    since_ns: int = 0
    handles: dict[int, int] = field(default_factory=dict)
    _inodes: dict[int, int] = field(default_factory=dict)

    def handle(self, number: int) -> int:
        """A file descriptor; EBADF without one."""
        if number not in self.handles:
            raise OSError(errno.EBADF, "no such handle")
        return self.handles[number]

    def keep(self, number: int, descriptor: int) -> None:
        """Another open file; one that had the number before is closed."""
        previous = self.handles.pop(number, None)
        self.handles[number] = descriptor
        if previous is not None:
            os.close(previous)

    def describe(self, status: os.stat_result) -> str:
        """What is comparable of a stat: no sizes and link counts of directories, no times of just now."""
        mode, directory = status.st_mode, stat.S_ISDIR(status.st_mode)
        words = [
            stat.filemode(mode),
            f"{status.st_uid}:{status.st_gid}",
            f"mtime={self.when(status.st_mtime_ns)}",
        ]
        if not directory:
            words.append(f"size={status.st_size}")
        if self.counted and not directory:
            words.append(f"nlink={status.st_nlink}")
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            words.append(f"rdev={os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
        if self.numbered:
            words.append(f"ino=#{self._inodes.setdefault(status.st_ino, len(self._inodes))}")
        return " ".join(words)

    def when(self, at_ns: int) -> str:
        """A time, or just that it is of now."""
        return "now" if self.since_ns <= at_ns <= time.time_ns() + 10**9 else str(at_ns)


def run_step(step: Step, place: Place) -> object:
    """The answer of one step."""
    try:
        with _acting_as(step.user):
            return step.run(place)
    except OSError as error:
        return Failed(errno.errorcode.get(error.errno or 0, str(error)))


@contextlib.contextmanager
def _acting_as(user: int) -> Iterator[None]:
    if user == 0:
        yield
        return
    group, groups = GROUPS[user]
    os.setgroups(groups)
    os.setresgid(group, group, 0)
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """One call. `run` answers something comparable, or raises OSError."""

    user: int = field(default=0, kw_only=True)

    def run(self, place: Place) -> object:
        raise NotImplementedError

    def __repr__(self) -> str:
        fields = sorted(dataclasses.fields(self), key=lambda each: each.name == "user")
        values = [(each.name, getattr(self, each.name)) for each in fields if not _is_default(self, each)]
        return f"{type(self).__name__}({', '.join(f'{name}={_text(name, value)}' for name, value in values)})"


def _is_default(step: Step, each: dataclasses.Field[object]) -> bool:
    return each.default is not dataclasses.MISSING and getattr(step, each.name) == each.default


def _text(name: str, value: object) -> str:
    """An argument as Python, flags by their names and long runs as products."""
    if isinstance(value, int) and name == "flags":
        names = [flag for flag, bit in FLAGS.items() if value & bit]
        return " | ".join(f"os.{flag}" for flag in names) or "os.O_RDONLY"
    if isinstance(value, int) and name == "mode":
        return f"0o{value:o}"
    if isinstance(value, bytes) and (run := _RUN.search(value)):
        before, after = value[: run.start()], value[run.end() :]
        times = f"{run[1]!r} * {len(run[0]) // len(run[1])}"
        return " + ".join(word for word in (_text(name, before), times, _text(name, after)) if word != "b''")
    return repr(value)
