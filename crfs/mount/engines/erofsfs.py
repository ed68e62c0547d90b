"""The kernel's EROFS: whether it can carry a tree here, and mounting an image that is a file."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from crfs.mount.engines import needs
from crfs.mount.engines.kernel import MS_RDONLY, mount
from crfs.mount.engines.loopdevice import CONTROL, loop_device
from crfs.mount.engines.overlayfs import may_set_trusted_in, refused, used
from crfs.overlay.spec import UpperSpec

# data-only layers of overlayfs
_KERNEL = (6, 5)
# images that are plain files
_FILES_KERNEL = (6, 12)
# what is said to a file by a kernel that wants a device, or of a file system that lacks something
_WANTS_DEVICE = (errno.ENOTBLK, errno.EINVAL, errno.EOPNOTSUPP)


def why_not(spec: UpperSpec | None, options: Sequence[str]) -> str | None:
    """Why EROFS can't carry an image's tree here, with changes over it or none; None: it can."""
    return needs.asked_of_fuse(options) or _lacking() or (None if spec is None else _why_not_over(spec))


def _lacking() -> str | None:
    lacking = (
        needs.lacks_kernel(*_KERNEL) or needs.lacks_filesystem("erofs") or needs.lacks_filesystem("overlay")
    )
    if lacking is not None:
        return lacking
    if os.geteuid() or needs.is_user_namespace() or needs.lacks_privilege():
        return "only root may mount EROFS, and not in a user namespace"
    if needs.lacks_kernel(*_FILES_KERNEL) and not os.path.exists(CONTROL):
        return f"it needs Linux 6.12, or a loop device, and there is no {CONTROL}"
    return None


def _why_not_over(spec: UpperSpec) -> str | None:
    if spec.userxattr or not may_set_trusted_in(spec.workdir):
        return "overlayfs takes no metacopy over an upper directory without trusted.* attributes"
    return used(spec) or refused(spec)


def mount_image(image: Path, at: Path) -> None:
    """Mount an image: as a file where the kernel takes one, else by a loop device. OSError."""
    try:
        _mount(image, at)
    except OSError as error:
        if error.errno not in _WANTS_DEVICE:
            raise
        with loop_device(image) as device:
            _mount(device, at)


def _mount(source: Path, at: Path) -> None:
    mount(os.fsencode(source), os.fsencode(at), b"erofs", MS_RDONLY, b"")
