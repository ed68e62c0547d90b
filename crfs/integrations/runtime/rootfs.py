"""Names in a container's root directory, seen from outside: no symbolic link of the image leads out of it.

What they tell holds before the container starts: nobody else changes the tree meanwhile.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

# as the kernel has it (path_resolution(7))
_LINKS_MAX = 40


class Bind(Struct, frozen=True):
    """`source` of this machine is seen at `destination`, which is absolute and normal."""

    source: str
    destination: str


class Rootfs:
    """A root directory, and what will be bound into it."""

    def __init__(self, root: Path, binds: Sequence[Bind] = ()) -> None:
        self._root = os.fspath(root)
        # the longest first: they are the ones that are seen
        self._binds = sorted(binds, key=lambda bind: len(bind.destination), reverse=True)

    def outside(self, path: str) -> str:
        """The absolute `path` of the container as one of this machine, free of symlinks but maybe not there.

        OSError for a loop of links. What lies behind a link in a bound directory is not looked for in the container.
        """
        todo, done, links = [part for part in reversed(path.split("/")) if part], "/", 0
        while todo:
            part = todo.pop()
            if part in (".", ".."):
                done = os.path.dirname(done) if part == ".." else done
                continue
            here = os.path.join(done, part)
            target = self._link(here)
            if target is None:
                done = here
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            todo += [part for part in reversed(target.split("/")) if part]
            done = "/" if target.startswith("/") else done
        return self._translated(done)

    def _link(self, path: str) -> str | None:
        try:
            return os.readlink(self._translated(path))
        except OSError:
            return None

    def _translated(self, path: str) -> str:
        for bind in self._binds:
            if path == bind.destination or path.startswith(f"{bind.destination}/"):
                return bind.source + path[len(bind.destination) :]
        return self._root + path

    def read_lines(self, path: str) -> list[str]:
        """The lines of a text file; none where there is no such file. Bytes that are not UTF-8 come escaped."""
        try:
            with open(self.outside(path), errors="surrogateescape") as file:
                return file.read().split("\n")
        except OSError:
            return []

    def make_directories(self, path: str, uid: int, gid: int) -> None:
        """Have a directory there, new ones owned by those; OSError."""
        at = "/"
        for part in path.split("/"):
            at = os.path.join(at, part)
            outside = self.outside(at)
            if not os.path.isdir(outside):
                os.mkdir(outside, 0o755)
                os.chown(outside, uid, gid)

    def find_program(self, name: str, search: str, cwd: str) -> str:
        """Where execvp(3) would find a program, of this machine; OSError: ENOENT or EACCES, as it would say."""
        found = OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        directories = [""] if "/" in name else search.split(":")
        for directory in directories:
            outside = self.outside(os.path.join(cwd, directory, name))
            try:
                mode = os.stat(outside).st_mode
            except OSError:
                continue
            if stat.S_ISREG(mode) and mode & 0o111:
                return outside
            found = OSError(errno.EACCES, os.strerror(errno.EACCES), name)
        raise found
