"""Which directories of a tree on disk stand for others below it: redirects, found by looking through the whole tree.

Redirects lead from a directory to where it was; whoever knows a file where it was and asks where it is now needs
them the other way round. Any thread.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

from msgspec import Struct

from crfs.overlay.marks import read_marks
from crfs.overlay.reach import Reach


class Move(Struct, frozen=True):
    """A directory that the trees below have at `was` is at `now`; both without a leading slash."""

    was: bytes
    now: bytes


def find_moves(root_fd: int) -> list[Move]:
    """All redirects of the directory tree below an open directory, parents first."""
    moves: list[Move] = []
    origins: dict[bytes, bytes] = {}
    for path, fd, entries in iter_directories(root_fd):
        above, _, name = path.rpartition(b"/")
        origin = join(origins.pop(path, above), name)
        redirect = read_marks(fd).redirect if path else None
        if redirect is not None:
            origin = _target(redirect, origin)
            moves.append(Move(origin, path))
        if origin != path:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    origins[join(path, os.fsencode(entry.name))] = origin
    return moves


def _target(redirect: bytes, origin: bytes) -> bytes:
    """An absolute path, or a name beside."""
    if redirect.startswith(b"/"):
        return redirect.strip(b"/")
    return join(origin.rpartition(b"/")[0], redirect)


def moved(paths: Iterable[bytes], moves: list[Move]) -> set[bytes]:
    """The paths, and where else they may be once directories were moved like that."""
    found = set(paths)
    for move in moves:
        inside = move.was + b"/"
        found |= {move.now + path[len(move.was) :] for path in found if path.startswith(inside)}
    return found


def join(directory: bytes, name: bytes) -> bytes:
    """A path below a root, which itself is empty."""
    return directory + b"/" + name if directory else name


def iter_directories(root_fd: int) -> Iterator[tuple[bytes, int, list["os.DirEntry[str]"]]]:
    """(path, descriptor, entries) of a directory and all below it that can be read, on one device; parents first."""
    with contextlib.closing(Reach(root_fd)) as reach:
        yield from _iter_directories(reach)


def _iter_directories(reach: Reach) -> Iterator[tuple[bytes, int, list["os.DirEntry[str]"]]]:
    device = os.fstat(reach.fd).st_dev
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            above, below = reach.find(path)
            fd = os.open(below or b".", flags, dir_fd=above)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_dev != device:
                continue
            with os.scandir(fd) as scanned:
                entries = list(scanned)
            yield path, fd, entries
        finally:
            os.close(fd)
        pending += [
            join(path, os.fsencode(each.name)) for each in entries if each.is_dir(follow_symlinks=False)
        ]
