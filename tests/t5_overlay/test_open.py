"""What open files are read from and changed by, while handles and names come and go."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

from crfs.overlay.files import Changes
from tests.support.overlaytree import opened


def test_last_handle_of_what_has_no_name_is_closed(tmp_path: Path) -> None:
    """Somebody may still refer to it, by O_PATH for one."""
    with opened([], tmp_path) as tree:
        tree.create(b"file", b"bytes")
        with tree.node(b"file") as node:
            with tree.open(b"file", os.O_RDWR):
                tree.unlink(b"file")
            tree.overlay.files.change(node, Changes(mode=0o600), lambda: False)
            shown = tree.overlay.files.attributes(node)
            assert (stat.S_IMODE(shown.mode), shown.nlink, shown.size) == (0o600, 0, 5)


def test_descriptor_that_is_read_from_stays_open(tmp_path: Path) -> None:
    """Also where the file can be written to only now: a program that runs can't be (ETXTBSY)."""
    sleep = Path(shutil.which("sleep") or "").read_bytes()
    with opened([], tmp_path) as tree:
        tree.create(b"program", sleep)
        tree.chmod(b"program", 0o755)
        with subprocess.Popen([tmp_path / "upper/program", "60"]) as running:
            try:
                with tree.open(b"program") as reading:
                    descriptor = reading.upper_fd
                    assert not reading.writable_fd
                    running.kill()
                    running.wait()
                    with tree.open(b"program", os.O_RDWR) as writing:
                        assert writing.writable_fd
                        assert reading.upper_fd == descriptor
                        assert os.pread(descriptor, 4, 0) == b"\x7fELF"
                        assert not os.get_inheritable(descriptor)
            finally:
                running.kill()
