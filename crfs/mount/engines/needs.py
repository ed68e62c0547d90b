"""What engines may need of a machine and of who mounts: each function says what is lacking, or None."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_FUSE_ONLY = {"allow_root", "auto_unmount", "debug", "max_read"}
# linux/capability.h
_SYS_ADMIN = 21


def asked_of_fuse(options: Sequence[str]) -> str | None:
    """Whether an option of mount(8) says what only FUSE does."""
    asked = [option for option in options if option.partition("=")[0] in _FUSE_ONLY]
    return f"-o {asked[0]} is FUSE's" if asked else None


def lacks_kernel(major: int, minor: int) -> str | None:
    """Whether the kernel is older than that."""
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None or (int(found[1]), int(found[2])) < (major, minor):
        return f"it needs Linux {major}.{minor}, and this is {release}"
    return None


def lacks_filesystem(name: str) -> str | None:
    """Whether the kernel does not have a file system, and has no module of it either."""
    if name in Path("/proc/filesystems").read_text().split():
        return None
    modules = Path("/lib/modules", os.uname().release)
    if any(modules.glob(f"kernel/fs/**/{name}.ko*")):
        # mount(2) loads it
        return None
    return f"this kernel has no {name}"


def lacks_privilege() -> str | None:
    """Whether the kernel would not let us mount: it lets root, and root of a user namespace."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if found is None or not int(found[1], 16) >> _SYS_ADMIN & 1:
        return "only root may mount it, or who is root in a user namespace (unshare -Urm)"
    return None


def is_user_namespace() -> bool:
    """Whether we are in another user namespace than the machine's first."""
    # linux/proc_ns.h: PROC_USER_INIT_INO
    return os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD
