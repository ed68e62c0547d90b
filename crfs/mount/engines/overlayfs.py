"""The kernel's overlayfs over a tree that is mounted: what it is told, and whether it can be had here."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence

from crfs.mount.engines import needs
from crfs.mount.engines.kernel import DATA_MAX, escaped, mount
from crfs.mount.engines.places import private_place
from crfs.overlay.overlay import UpperSpec
from crfs.overlay.upper import may_set_trusted

log = logging.getLogger(__name__)
# since when it may be mounted in a user namespace
_KERNEL = (5, 11)
_FUSE_ONLY = ("allow_root", "auto_unmount")


def why_not(spec: UpperSpec, options: Sequence[str]) -> str | None:
    """Why overlayfs can't be mounted here over these directories, by these rules; None: it can."""
    asked = [option for option in options if option in _FUSE_ONLY]
    if asked:
        return f"-o {asked[0]} is FUSE's"
    lacking = needs.lacks_filesystem("overlay") or needs.lacks_privilege()
    if lacking is None and needs.is_user_namespace():
        lacking = needs.lacks_kernel(*_KERNEL)
    return lacking or _used(spec) or _refused(spec)


def _used(spec: UpperSpec) -> str | None:
    """Who is killed leaves it unlocked; overlayfs empties the work directory when it is mounted."""
    with contextlib.suppress(FileNotFoundError), held(spec) as alone:
        return None if alone else "the upper and work directories are used by another mount"
    return None


@contextlib.contextmanager
def held(spec: UpperSpec) -> Iterator[bool]:
    """The work directory is known to be in use; whether it was not before. See Upper.alone()."""
    fd = os.open(os.path.join(spec.workdir, b"work"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            log.debug("the work directory's file system has no locks")
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield True
    finally:
        os.close(fd)


def _refused(spec: UpperSpec) -> str | None:
    """What the kernel says to an overlay of nothing, which nobody sees."""
    try:
        with private_place() as place:
            mount_overlay(os.fsencode(place), spec, os.fsencode(place), "crfs", 0)
    except OSError as error:
        return said(error)
    return None


def said(error: OSError) -> str:
    """Why it could not be mounted, in words."""
    if error.errno == errno.EINVAL:
        return "the kernel's overlayfs refuses the upper and work directories (the kernel's log says why)"
    return f"mounting overlayfs fails: {error.strerror}"


def mount_overlay(tree: bytes, spec: UpperSpec, at: bytes, source: str, flags: int) -> None:
    """Mount it over a tree. OSError."""
    mount(os.fsencode(source), at, b"overlay", flags, overlay_options(escaped(tree), spec))


def overlay_options(lowers: bytes, spec: UpperSpec) -> bytes:
    """What mount(2) is told; OSError. Metadata is copied up alone where nobody else can have forged the marks."""
    options = [
        b"lowerdir=" + lowers,
        b"upperdir=" + escaped(spec.upperdir),
        b"workdir=" + escaped(spec.workdir),
        # names of one file that are found in an index would be lost on other engines
        b"index=off",
    ]
    if spec.userxattr or not _may_set_trusted(spec.workdir):
        options.append(b"userxattr")
    else:
        options += [b"redirect_dir=on", b"metacopy=on"]
    options += [b"volatile"] if spec.volatile else []
    data = b",".join(options)
    if len(data) > DATA_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return data


def _may_set_trusted(directory: bytes) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return may_set_trusted(fd)
    finally:
        os.close(fd)
