"""What is read ahead of a mount is what it loads, and only where the kernel does not have it."""

import os
import subprocess
import sys
from pathlib import Path

from crfs.cli.readahead import is_cold, iter_files

_LOADED = """
import sys, crfs.cli.commands, crfs.cli.mount, crfs.cli.erofs, crfs.cli.sources, crfs.blobs.ranges
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
print(*[spec.cached or spec.origin for spec in specs if spec.has_location], sep="\\n")
"""


def test_most_of_what_a_mount_loads_is_read() -> None:
    """Others than ours and the interpreter's come and go with their versions."""
    words = ("-c", _LOADED)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    loaded = {path for path in done.stdout.split("\n") if path.endswith((".pyc", ".so"))}
    assert len(loaded & set(iter_files())) > 0.9 * len(loaded)


def test_a_file_that_was_just_read_is_not_cold(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert not is_cold(os.fspath(path))
    assert not is_cold(os.fspath(tmp_path / "none"))
    assert not is_cold(os.fspath(tmp_path))


def test_a_file_that_the_kernel_has_dropped_is_cold() -> None:
    # beside us, since a tmpfs has nothing to read from
    path = Path(__file__).with_name(f".cold-{os.getpid()}")
    try:
        path.write_bytes(bytes(1 << 16))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert is_cold(os.fspath(path))
    finally:
        path.unlink()
