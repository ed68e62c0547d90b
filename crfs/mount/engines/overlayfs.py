"""The kernel's overlayfs over a tree that is mounted: what it is told, and whether it can be had here."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crfs.mount.engines import needs
from crfs.mount.engines.kernel import DATA_MAX, MS_RDONLY, escaped, mount
from crfs.mount.engines.places import private_place
from crfs.mount.mountpoint import Mounted
from crfs.overlay.marks import may_set_trusted
from crfs.overlay.spec import UpperSpec

log = logging.getLogger(__name__)
# since when it may be mounted in a user namespace
_KERNEL = (5, 11)
_METACOPY = (b"redirect_dir=on", b"metacopy=on")
# what is not shown as an option
_METACOPY_DEFAULT = Path("/sys/module/overlay/parameters/metacopy")


def why_not(spec: UpperSpec, options: Sequence[str]) -> str | None:
    """Why overlayfs can't be mounted here over these directories, by these rules; None: it can."""
    lacking = needs.asked_of_fuse(options) or needs.lacks_filesystem("overlay") or needs.lacks_privilege()
    if lacking is None and needs.is_user_namespace():
        lacking = needs.lacks_kernel(*_KERNEL)
    return lacking or used(spec) or refused(spec)


def used(spec: UpperSpec) -> str | None:
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


def refused(spec: UpperSpec) -> str | None:
    """What the kernel says to an overlay of nothing, which nobody sees."""
    try:
        with private_place() as place:
            mount_overlay(escaped(os.fsencode(place)), spec, os.fsencode(place), "crfs", 0)
    except OSError as error:
        return said(error)
    return None


def said(error: OSError) -> str:
    """Why it could not be mounted, in words."""
    if error.errno == errno.EINVAL:
        return "the kernel's overlayfs refuses the upper and work directories (the kernel's log says why)"
    return f"mounting overlayfs fails: {error.strerror}"


def mount_overlay(lowers: bytes, spec: UpperSpec | None, at: bytes, source: str, flags: int) -> None:
    """Mount it over what `lowerdir=` is to say, escaped. OSError."""
    if spec is None:
        mount(
            os.fsencode(source),
            at,
            b"overlay",
            flags | MS_RDONLY,
            _checked([b"lowerdir=" + lowers, *_METACOPY]),
        )
    else:
        mount(os.fsencode(source), at, b"overlay", flags, overlay_options(lowers, spec))


def takes_metacopy(mounted: Mounted) -> bool:
    """Whether an overlay is one that finds contents elsewhere than attributes."""
    shown = dict(option.partition("=")[::2] for option in mounted.options.split(","))
    return (shown.get("metacopy") or _METACOPY_DEFAULT.read_text().strip().replace("Y", "on")) == "on"


def overlay_options(lowers: bytes, spec: UpperSpec) -> bytes:
    """What mount(2) is told; OSError. Metadata is copied up alone where nobody else can have forged the marks."""
    options = [
        b"lowerdir=" + lowers,
        b"upperdir=" + escaped(spec.upperdir),
        b"workdir=" + escaped(spec.workdir),
        # names of one file that are found in an index would be lost on other engines
        b"index=off",
        # one device number for all, and in directories the inode numbers that stat(2) shows
        b"xino=on",
    ]
    if spec.userxattr or not may_set_trusted_in(spec.workdir):
        options.append(b"userxattr")
    else:
        options += _METACOPY
    options += [b"volatile"] if spec.volatile else []
    return _checked(options)


def _checked(options: Sequence[bytes]) -> bytes:
    data = b",".join(options)
    if len(data) > DATA_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return data


def may_set_trusted_in(directory: bytes) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return may_set_trusted(fd)
    finally:
        os.close(fd)
