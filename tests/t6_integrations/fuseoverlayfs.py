"""The real fuse-overlayfs, which says what its options do: mounted, looked at, and gone again."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import need_fuse, run_program


@contextlib.contextmanager
def fuse_overlayfs(place: Path, options: str) -> Iterator[Path]:
    """A mount of fuse-overlayfs with `options`, in which paths are relative to `place`."""
    need_root()
    need_fuse()
    need_programs(["fuse-overlayfs"])
    at = place / "merged"
    at.mkdir()
    # a file for its words: the daemon would keep a pipe open
    with (place / "stderr").open("w") as stderr:
        command = ["fuse-overlayfs", "-o", options, str(at)]
        done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, stderr=stderr, timeout=30)
    assert done.returncode == 0, (place / "stderr").read_text()
    try:
        yield at
    finally:
        run_program("umount", at)
