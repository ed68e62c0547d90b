"""Where files keep owner, mode and type: in their inodes, or recorded in an extended attribute of each.

A path is taken literally unless `follow`, for those of /proc/self/fd. Modes have their types. The overlay's lock
is held by whoever changes anything.
"""

import errno
import os
import stat

from msgspec import Struct
from msgspec.structs import replace

from crfs._native.status import Status
from crfs.errors import FormatError, MountError
from crfs.formats.overridestat import (
    XATTR,
    XATTRS,
    OverrideStat,
    XattrPermissions,
    format_override,
    parse_override,
)
from crfs.overlay.attributes import Attributes, attributes_of

# what a recorded file is on disk: its owner is ours, and who shares the directory may read it
_BACKING_MODE = 0o755
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class Owner(Struct, frozen=True):
    """Who makes something, as it is stored on disk."""

    uid: int
    gid: int


class InInodes:
    """As file systems are used to. `squashed`: an owner that can't be given is not missed, since none is shown."""

    # whether the type that a directory's entry has on disk is the one to show
    types_on_disk = True

    def __init__(self, *, squashed: bool = False) -> None:
        self._squashed = squashed

    @property
    def is_plain(self) -> bool:
        """Whether files have on disk what they show."""
        return self.types_on_disk and not self._squashed

    def backing_mode(self, mode: int) -> int:
        """The permissions to create with what is to have `mode`."""
        return stat.S_IMODE(mode)

    def mknod(self, dir_fd: int, name: bytes, mode: int, rdev: int) -> None:
        """Create what is neither a directory nor a symbolic link."""
        os.mknod(name, mode, rdev, dir_fd=dir_fd)

    def own(self, dir_fd: int, name: bytes, mode: int, rdev: int, owner: Owner) -> tuple[int, int]:
        """What we made is its maker's; its inode number and mode."""
        info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        wrong_owner = (info.st_uid, info.st_gid) != (owner.uid, owner.gid)
        wrong_mode = not stat.S_ISLNK(mode) and stat.S_IMODE(info.st_mode) != stat.S_IMODE(mode)
        if wrong_owner:
            self._give(name, owner.uid, owner.gid, dir_fd=dir_fd)
        # last, since a change of owner takes bits away
        if wrong_mode or (wrong_owner and mode & (stat.S_ISUID | stat.S_ISGID)):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=dir_fd)
        if wrong_owner or wrong_mode:
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        return info.st_ino, info.st_mode

    def attributes(
        self, path: bytes | int, info: os.stat_result | Status, *, follow: bool = False
    ) -> Attributes:
        """What stat shows of what is at a path, where it has said `info` itself."""
        return attributes_of(info)

    def chown(self, path: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        """Change the owner; -1 leaves a part as it is."""
        self._give(path, uid, gid, follow=follow)

    def chmod(self, path: bytes | int, mode: int, rdev: int = 0, *, follow: bool = False) -> None:
        """Change the mode of what is no symbolic link."""
        os.chmod(path, stat.S_IMODE(mode))

    def _give(
        self, path: bytes | int, uid: int, gid: int, *, dir_fd: int | None = None, follow: bool = False
    ) -> None:
        try:
            os.chown(path, uid, gid, dir_fd=dir_fd, follow_symlinks=follow)
        except OSError:
            if not self._squashed:
                raise


class Recorded(InInodes):
    """In the extended attribute `name`: all files are ours on disk, and devices, fifos and sockets are regular.

    Where there is none (symbolic links can't have `user.` ones), what is on disk counts, and an owner is lost.
    """

    types_on_disk = False

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self.name = name

    def backing_mode(self, mode: int) -> int:
        return _BACKING_MODE

    def mknod(self, dir_fd: int, name: bytes, mode: int, rdev: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, _BACKING_MODE, dir_fd=dir_fd))

    def own(self, dir_fd: int, name: bytes, mode: int, rdev: int, owner: Owner) -> tuple[int, int]:
        info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
        self._store(path, info, OverrideStat(owner.uid, owner.gid, mode, rdev), follow=False)
        return info.st_ino, mode

    def attributes(
        self, path: bytes | int, info: os.stat_result | Status, *, follow: bool = False
    ) -> Attributes:
        shown = attributes_of(info)
        found = self._load(path, info, follow=follow)
        if found is None:
            return shown
        mode = _mode(info.st_mode, found)
        return replace(shown, uid=found.uid, gid=found.gid, mode=mode, rdev=found.rdev or shown.rdev)

    def chown(self, path: bytes | int, uid: int, gid: int, *, follow: bool = False) -> None:
        info = os.stat(path, follow_symlinks=follow)
        shown = self.attributes(path, info, follow=follow)
        owner = shown.uid if uid == -1 else uid, shown.gid if gid == -1 else gid
        self._store(path, info, OverrideStat(*owner, shown.mode, shown.rdev), follow=follow)

    def chmod(self, path: bytes | int, mode: int, rdev: int = 0, *, follow: bool = False) -> None:
        info = os.stat(path, follow_symlinks=follow)
        if not self._can_hold(info):
            os.chmod(path, stat.S_IMODE(mode))
            return
        shown = self.attributes(path, info, follow=follow)
        self._store(path, info, OverrideStat(shown.uid, shown.gid, mode, rdev or shown.rdev), follow=follow)

    def start(self, fd: int, root: Attributes) -> None:
        """Record the attributes of the directory that all is in, by which others know what is done here; MountError."""
        record = OverrideStat(root.uid, root.gid, root.mode)
        try:
            os.setxattr(fd, self.name, format_override(record))
        except OSError as error:
            name = os.fsdecode(self.name)
            raise MountError(f"the upper directory can't be given {name}: {error.strerror}") from error

    def _can_hold(self, info: os.stat_result | Status) -> bool:
        return stat.S_IFMT(info.st_mode) in (stat.S_IFREG, stat.S_IFDIR) or self.name.startswith(b"security.")

    def _load(self, path: bytes | int, info: os.stat_result | Status, *, follow: bool) -> OverrideStat | None:
        if not self._can_hold(info):
            return None
        try:
            return parse_override(os.getxattr(path, self.name, follow_symlinks=follow))
        except FormatError as error:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from error
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return None

    def _store(
        self, path: bytes | int, info: os.stat_result | Status, record: OverrideStat, *, follow: bool
    ) -> None:
        if self._can_hold(info):
            os.setxattr(path, self.name, format_override(record), follow_symlinks=follow)


def _mode(on_disk: int, found: OverrideStat) -> int:
    """Only a regular file may stand for something else. fuse-overlayfs 1 leaves out which device it is."""
    kind = stat.S_IFMT(found.mode)
    nodes = (stat.S_IFIFO, stat.S_IFSOCK, *_DEVICES)
    if not stat.S_ISREG(on_disk) or kind not in nodes or (kind in _DEVICES and not found.rdev):
        kind = stat.S_IFMT(on_disk)
    return on_disk if stat.S_ISLNK(on_disk) else kind | stat.S_IMODE(found.mode)


def find_recorded(fd: int) -> Recorded | None:
    """How a directory's files are recorded, which its root tells; None where they are not."""
    for name in XATTRS:
        try:
            os.getxattr(fd, name)
        except OSError:
            continue
        return Recorded(name)
    return None


def upper_ownership(
    fd: int, permissions: XattrPermissions, root: Attributes | None, *, squashed: bool
) -> InInodes:
    """How files of an upper directory are to be kept. One that has been recorded in before stays so.

    `root`: what a lower directory has recorded of itself, which a new record takes over. OSError, MountError.
    """
    found = find_recorded(fd)
    if found is not None and (permissions is XattrPermissions.OFF or _is_kind(found.name, permissions)):
        return found
    if permissions is XattrPermissions.OFF:
        return InInodes(squashed=squashed)
    made = Recorded(XATTR[permissions])
    made.start(fd, root or attributes_of(os.fstat(fd)))
    return made


def _is_kind(name: bytes, permissions: XattrPermissions) -> bool:
    return name.startswith(b"security.") == (permissions is XattrPermissions.PRIVILEGED)
