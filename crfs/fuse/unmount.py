"""Taking a mount down, as root or through fusermount(1). Does not need llfuse, or its server to be alive."""

import os
from pathlib import Path

from crfs.errors import MountError


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount as root or through fusermount; MountError with its words where it refuses."""
    import subprocess  # late: most mounts end without us

    command = ["umount"] if os.geteuid() == 0 else ["fusermount", "-u"]
    if lazy:
        command.append("-l" if os.geteuid() == 0 else "-z")
    try:
        done = subprocess.run([*command, "--", str(mountpoint)], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountError(f"{mountpoint}: can't be unmounted: {error}") from error
    if done.returncode:
        raise MountError(" ".join(done.stderr.split()) or f"{mountpoint}: can't be unmounted")
