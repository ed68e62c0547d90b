"""The demo as a user runs it: that it works, and that nothing is left of it when it is interrupted."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no /dev/fuse")
COMMAND = [sys.executable, "-m", "crfs.cli.main", "demo"]


def start(scratch: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(scratch), "COLUMNS": "100"}
    return subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def mounts_below(directory: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]


def test_demo_shows_a_table_and_cleans_up(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        shown, complaint = demo.communicate(timeout=120)
    assert (demo.returncode, complaint) == (0, "")
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"│ (\w+) +│ +(\d+) │ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │", shown)
    }
    assert set(rows) == {"mount", "run", "together"}
    assert 0 < float(rows["together"][2]) < 100
    assert re.search(r"Ran from the mount: Python [\d.]+, \d+ modules", shown)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Interrupted as soon as the mount is there."""
    with start(tmp_path) as demo:
        until = time.monotonic() + 60
        while not mounts_below(tmp_path) and time.monotonic() < until and demo.poll() is None:
            time.sleep(0.01)
        os.killpg(demo.pid, number)
        shown, complaint = demo.communicate(timeout=60)
    assert (demo.returncode, shown, complaint) == (128 + number, "", "")
    assert not mounts_below(tmp_path)
    assert not list(tmp_path.iterdir())
