"""What an overlay is asked to be, in the terms of fuse-overlayfs: made from a command line, taken by the engine."""

import enum
from pathlib import Path

from msgspec import Struct

from crfs.formats.overridestat import XattrPermissions
from crfs.integrations.crfsplugin import CrfsLower
from crfs.integrations.idmap import IdMap, IdRange

TIMEOUT_SECONDS = 1e9


class Xino(enum.Enum):
    """Whether inode numbers are made unique over several file systems."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"


class RedirectDir(enum.Enum):
    """Whether directories that are renamed get redirects. Those that there are, are followed in any case."""

    OFF = "off"
    FOLLOW = "follow"
    ON = "on"


class Acl(enum.Enum):
    """Whether POSIX ACLs are asked for."""

    OFF = "off"
    ON = "on"


class DirectoryLower(Struct, frozen=True):
    """A directory of this machine. It may lead through symlinks, before a `..` as well."""

    path: Path


Lower = DirectoryLower | CrfsLower


class OverlayRequest(Struct, frozen=True):
    """What to mount. All paths are absolute; `workdir` is there if and only if `upperdir` is.

    `lowers` has the topmost first. `squash_uid` and `squash_gid` are what every file shows as. `fsync` is off
    with `volatile`. `fuse_options` are the user's, for libfuse as they are; `warnings` are for the user.
    """

    mountpoint: Path
    lowers: tuple[Lower, ...]
    upperdir: Path | None = None
    workdir: Path | None = None
    read_only: bool = False
    foreground: bool = False
    debug: bool = False
    uid_ranges: tuple[IdRange, ...] = ()
    gid_ranges: tuple[IdRange, ...] = ()
    squash_uid: int | None = None
    squash_gid: int | None = None
    static_nlink: bool = False
    xino: Xino = Xino.AUTO
    ino32: bool = False
    acl: Acl = Acl.ON
    timeout: float = TIMEOUT_SECONDS
    threaded: bool = True
    fsync: bool = True
    volatile: bool = False
    fast_ino: bool = False
    writeback: bool = True
    noxattrs: bool = False
    userxattr: bool = False
    xattr_permissions: XattrPermissions = XattrPermissions.OFF
    redirect_dir: RedirectDir = RedirectDir.ON
    context: str | None = None
    fuse_options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def id_maps(request: OverlayRequest, overflow: tuple[int, int]) -> tuple[IdMap, IdMap]:
    """How user and group ids are mapped; `overflow` is the kernel's pair of ids for those without a name."""
    return (
        IdMap(request.uid_ranges, request.squash_uid, overflow[0]),
        IdMap(request.gid_ranges, request.squash_gid, overflow[1]),
    )


def libfuse_options(request: OverlayRequest, *, root: bool) -> tuple[str, ...]:
    """The options for libfuse: fuse-overlayfs's own, then the user's. `root` is that of any user namespace."""
    # libfuse 3, which fuse-overlayfs has, mounts over files without being told
    options = ["nonempty", "default_permissions", "noatime", "nodev"]
    if root:
        options.append("suid")
    # libfuse takes only one of the two
    if root and "allow_root" not in request.fuse_options:
        options.append("allow_other")
    if request.read_only:
        options.append("ro")
    return (*options, *request.fuse_options)
