"""Paths below an open directory that may be longer than the kernel takes in one call (PATH_MAX). Any thread."""

import errno
import os

from msgspec import Struct

# below PATH_MAX (4096), less what leads to a descriptor in /proc/self/fd
REACH = 4000
# each is an open file
_MOST_KEPT = 256


class Reach(Struct):
    """What lies farther below the directory `fd` is reached from directories on the way, which are kept open."""

    fd: int
    _kept: dict[bytes, int] = {}

    def find(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor, and the path from there. OSError where the way is not there, or too many have been kept."""
        fd, start = self.fd, 0
        while len(path) - start >= REACH:
            end = path.rindex(b"/", start, start + REACH)
            fd, start = self._keep(path[:end], fd, path[start:end]), end + 1
        return fd, path[start:]

    def _keep(self, path: bytes, fd: int, way: bytes) -> int:
        known = self._kept.get(path)
        if known is not None:
            return known
        if len(self._kept) >= _MOST_KEPT:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        opened = os.open(way, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        # another thread may have been there first
        kept = self._kept.setdefault(path, opened)
        if kept != opened:
            os.close(opened)
        return kept

    def close(self) -> None:
        """Let go of all but `fd`."""
        while self._kept:
            os.close(self._kept.popitem()[1])
