"""The comparison itself: it must find nothing where there is nothing, and what is known to be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fsops import MapRead, Open, Step, Write
from tests.support.overlaymounts import KernelOverlay, Mounter, fuse_overlayfs
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.pair import Pair
from tests.t6_mount.overlay.search import Finding, attempt, reduced, search
from tests.t6_mount.overlay.stacks import LINKED, STACKS


def find(arena: Arena, trial: Mounter, stack: str) -> Finding:
    """Something that is different, with fewer steps."""
    examples = Examples(arena, trial, None, [stack])
    finding = search(examples, seed=1, number=10, steps=150)
    assert finding is not None, f"nothing in {examples.steps} steps"
    return reduced(finding, examples, 5)


@pytest.mark.parametrize("stack", STACKS)
def test_kernel_is_as_the_kernel(arena: Arena, stack: str) -> None:
    """With an index, which is what keeps links together, an upper directory is not the same without."""
    linked = stack in LINKED
    examples = Examples(arena, KernelOverlay(index=linked), None, [stack], {"upper"} if linked else ())
    finding = search(examples, seed=1, number=3, steps=150)
    assert finding is None, str(finding)
    assert examples.steps > 250


def test_should_fail_where_links_are_broken(arena: Arena) -> None:
    finding = find(arena, KernelOverlay(index=False), "links")
    assert len(finding.steps) < 5, str(finding)


def test_should_fail_where_directories_do_not_move(arena: Arena) -> None:
    finding = find(arena, KernelOverlay(redirect=False), "small")
    assert "EXDEV" in str(finding.mismatch)
    assert len(finding.steps) == 1, str(finding)


def test_should_fail_for_fuse_overlayfs(arena: Arena) -> None:
    """It has known differences: moved directories, names of 255 bytes, link counts."""
    trial = fuse_overlayfs()
    if reason := trial.missing():
        pytest.skip(reason)
    find(arena, trial, "rich")


@pytest.mark.parametrize("times", [1, 9000], ids=["as long", "longer"])
def test_what_the_kernel_maps_of_a_lower_file_is_let_pass(
    arena: Arena, crfs_overlay: Mounter, times: int
) -> None:
    """Other bytes than there are, or none: who reads them by the mapping is ended by SIGBUS."""
    steps: list[Step] = [Open(0, b"file", os.O_RDONLY), Open(1, b"file", os.O_WRONLY)]
    steps += [Write(1, b"Z", times), MapRead(0)]
    mismatch = attempt(Pair(arena, "small", crfs_overlay), steps)
    assert mismatch is None, str(mismatch)


def test_a_finding_is_a_script(arena: Arena, tmp_path: Path) -> None:
    finding = find(arena, KernelOverlay(redirect=False), "small")
    script = tmp_path / "script.py"
    script.write_text(finding.script())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), "kernel"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "kernel: no difference\n", "")
