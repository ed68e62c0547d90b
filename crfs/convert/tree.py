"""Files on disk as the entries of a layer. Blocking I/O; one thread at a time.

Sockets are left out, as tar does. Of a file that grows while it is read, what was there when it was listed is
taken; one that shrinks is an error.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from crfs.convert.entries import TarEntry
from crfs.convert.headers import XATTR_RECORD, set_mtime

_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}

# decides whether a path, and all below it, or an extended attribute, becomes part of the layer
Wanted = Callable[[str], bool]


def everything(_path: str) -> bool:
    """The `Wanted` that leaves nothing out."""
    return True


class TreeReader:
    """Turns paths into entries; remembers inodes, so that the second name of one becomes a hard link."""

    def __init__(self, keep_xattr: Wanted = everything) -> None:
        self._keep_xattr = keep_xattr
        self._seen: dict[tuple[int, int], str] = {}

    def iter_tree(self, root: str, name: str, wanted: Wanted = everything) -> Iterator[TarEntry]:
        """The directory `root` as `name` of the layer, and all below it that is wanted, sorted; OSError.

        Symbolic links are kept, but `root` may be one to a directory. A `name` of "." is the layer's root.
        """
        yield from self._entries(os.path.realpath(root), name, wanted)

    def _entries(self, path: str, name: str, wanted: Wanted) -> Iterator[TarEntry]:
        entry = self.find_entry(path, name)
        if entry is None:
            return
        yield entry
        if entry.info.isdir():
            yield from self.iter_below(path, name, wanted)

    def iter_below(self, path: str, name: str, wanted: Wanted = everything) -> Iterator[TarEntry]:
        """All that is in a directory, but not itself."""
        for child in sorted(os.listdir(path)):
            below = os.path.join(path, child)
            if wanted(below):
                yield from self._entries(below, f"{name}/{child}", wanted)

    def find_entry(self, path: str, name: str, identity: tuple[int, int] | None = None) -> TarEntry | None:
        """The one file `path`, not followed, as `name` of the layer; None for a socket; OSError.

        `identity` is what its names have in common; None: device and inode.
        """
        status = os.lstat(path)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None
        info = _header(status, name)
        info.type = kind
        identity = identity or (status.st_dev, status.st_ino)
        first = self._seen.setdefault(identity, name) if status.st_nlink > 1 else name
        if first != name and kind != tarfile.DIRTYPE:
            info.type, info.linkname = tarfile.LNKTYPE, first
            return TarEntry(info)
        info.pax_headers = {**info.pax_headers, **_xattrs(path, self._keep_xattr)}
        if kind == tarfile.SYMTYPE:
            info.linkname = os.readlink(path)
        elif kind == tarfile.REGTYPE:
            info.size = status.st_size
            return TarEntry(info, lambda: open(path, "rb"))  # the writer closes it
        return TarEntry(info)


def _header(status: os.stat_result, name: str) -> tarfile.TarInfo:
    """What all types have, but for the names of owners: they mean something only where the tree came from."""
    info = tarfile.TarInfo(name)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    set_mtime(info, status.st_mtime_ns)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return info


def _xattrs(path: str, keep: Wanted) -> dict[str, str]:
    """PAX records of the extended attributes; none where the file system has none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    values = {name: os.getxattr(path, name, follow_symlinks=False) for name in names if keep(name)}
    return {XATTR_RECORD + name: value.decode("utf-8", "surrogateescape") for name, value in values.items()}
