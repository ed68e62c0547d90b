"""One of many processes that make, move, link and remove names of one tree at random: `crowd.py ROOT SEED STEPS`.

They get in each other's way, so calls may fail, but only as POSIX has it; other errors are said, and the program fails.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
from collections import Counter
from collections.abc import Callable

_EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENXIO,
    errno.EPERM,
}
_NAMES = ("a", "b", "c", "dir", "file", "sub")
_DEPTH_MAX = 4


class Member:
    """One process of the crowd."""

    def __init__(self, root: str, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)
        self._calls: dict[str, Callable[[], object]] = {
            "mkdir": lambda: os.mkdir(self._path()),
            "symlink": lambda: os.symlink(self._path(), self._path()),
            "mkfifo": lambda: os.mkfifo(self._path()),
            "link": lambda: os.link(self._path(), self._path(), follow_symlinks=False),
            "rename": lambda: os.rename(self._path(), self._path()),
            "unlink": lambda: os.unlink(self._path()),
            "rmdir": lambda: os.rmdir(self._path()),
            "chmod": lambda: os.chmod(self._path(), self._random.choice((0o755, 0o700))),
            "lchown": lambda: os.lchown(self._path(), self._random.randrange(3), 0),
            "truncate": lambda: os.truncate(self._path(), self._random.randrange(9000)),
            "utime": lambda: os.utime(self._path(), (1, 1), follow_symlinks=False),
            "setxattr": lambda: os.setxattr(self._path(), "user.a", b"v"),
            "listxattr": lambda: sorted(os.listxattr(self._path())),
            "look": self._look,
            "write": self._write,
            "read": self._read,
        }
        self._weighted = [*self._calls, "mkdir", "rename", "rename", "write", "write"]

    def run(self, steps: int) -> Counter[str]:
        """Errors that nobody should get, counted."""
        strange: Counter[str] = Counter()
        for _ in range(steps):
            name = self._random.choice(self._weighted)
            try:
                self._calls[name]()
            except OSError as error:
                if error.errno not in _EXPECTED:
                    strange[f"{name}: {error}"] += 1
        return strange

    def _path(self) -> str:
        names = [self._random.choice(_NAMES) for _ in range(self._random.randrange(1, _DEPTH_MAX))]
        return "/".join((self._root, *names))

    def _look(self) -> None:
        for entry in os.scandir(self._path()):
            entry.stat(follow_symlinks=False)

    def _write(self) -> None:
        flags = self._random.choice(
            (0, os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL, os.O_APPEND)
        )
        fd = os.open(self._path(), os.O_RDWR | os.O_NONBLOCK | flags)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.write(fd, self._random.randbytes(self._random.randrange(6000)))
                os.fchmod(fd, 0o640)
        finally:
            os.close(fd)

    def _read(self) -> None:
        fd = os.open(self._path(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            while stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, 4000):
                pass
        finally:
            os.close(fd)


def main(root: str, seed: int, steps: int) -> str | None:
    """None, or what is wrong."""
    strange = Member(root, seed).run(steps)
    return "\n".join(f"{count}x {text}" for text, count in strange.most_common(20)) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
