"""An upper directory as the entries of an image's layer: whiteouts, opaque marks, and what lies where it was moved.

Follows the image specification's layer.md. Blocking I/O; one thread at a time. Nothing below is read, but what a
directory that was moved, or a file of which only the metadata was copied up, has there: the mount shows it.
"""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from crfs.convert.entries import TarEntry
from crfs.convert.tree import TreeReader
from crfs.errors import UnsupportedError
from crfs.formats.overridestat import XATTRS
from crfs.overlay.marks import (
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    is_private,
    is_whiteout,
    read_file_marks,
    read_marks,
)

_OPAQUE = os.fsdecode(OPAQUE_NAME)
_WHITEOUT = os.fsdecode(WHITEOUT_PREFIX)


def iter_upper(upper: Path, shown: Path | None) -> Iterator[TarEntry]:
    """The entries that, over the lower trees, make the tree that a mount with this upper directory shows.

    `shown` is where it is mounted, None: nowhere. The root is among them: a mount shows the upper directory's own.
    OSError; UnsupportedError where something below is needed, and there is no mount to ask.
    """
    reader = _UpperReader(str(upper), None if shown is None else str(shown))
    yield from reader.iter_root()


def _keep_xattr(name: str) -> bool:
    return not is_private(os.fsencode(name))


class _UpperReader:
    def __init__(self, upper: str, shown: str | None) -> None:
        self._upper = upper
        self._shown = shown
        # where owners and modes are kept in xattrs, only the mount tells what they are
        overridden = {os.fsencode(name) for name in os.listxattr(upper)} & set(XATTRS)
        self._trust_upper = not overridden
        if overridden and shown is None:
            raise UnsupportedError(
                f"{upper}: owners and modes are kept in xattrs; mount it to have them read"
            )
        self._reader = TreeReader(_keep_xattr)

    def iter_root(self) -> Iterator[TarEntry]:
        """The root, and all below it."""
        entry = self._reader.find_entry(self._source(self._upper, ""), ".")
        if entry is not None:
            yield entry
        yield from self.iter_directory("")

    def iter_directory(self, name: str) -> Iterator[TarEntry]:
        """What the upper directory has in `name`, and what it says of the layers below."""
        path = _join(self._upper, name)
        marks = read_marks(os.fsencode(path))
        children = sorted(os.listdir(path))
        if name and (marks.opaque or marks.redirect is not None or _OPAQUE in children):
            yield _mark(_join(name, _OPAQUE))
        if marks.redirect is not None:
            yield from self._reader.iter_below(self._at_mount(name), name)
            return
        for child in children:
            yield from self._iter_child(_join(name, child), child)

    def _iter_child(self, name: str, base: str) -> Iterator[TarEntry]:
        path = _join(self._upper, name)
        status = os.lstat(path)
        if is_whiteout(status):
            yield _mark(_join(os.path.dirname(name), _WHITEOUT + base))
        elif base.startswith(_WHITEOUT):
            if not base.startswith(_WHITEOUT * 2):
                yield _mark(name)
        else:
            entry = self._reader.find_entry(self._source(path, name), name, self._identity(name, status))
            if entry is not None:
                yield entry
            if stat.S_ISDIR(status.st_mode):
                yield from self.iter_directory(name)

    def _source(self, path: str, name: str) -> str:
        """Where an object is read."""
        if self._trust_upper and not read_file_marks(os.fsencode(path)).metacopy:
            return path
        return self._at_mount(name)

    def _at_mount(self, name: str) -> str:
        if self._shown is None:
            raise UnsupportedError(
                f"{_join(self._upper, name)}: lies in a lower tree, where it was moved from; mount it to have it read"
            )
        return _join(self._shown, name)

    def _identity(self, name: str, status: os.stat_result) -> tuple[int, int]:
        """What names of one file have in common: in the mount, also with those that lie below."""
        if self._shown is not None and status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            status = os.lstat(_join(self._shown, name))
        return status.st_dev, status.st_ino


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory and name else directory or name


def _mark(name: str) -> TarEntry:
    """An empty file that says something of the layers below."""
    info = tarfile.TarInfo(name)
    info.mode = 0
    return TarEntry(info)
