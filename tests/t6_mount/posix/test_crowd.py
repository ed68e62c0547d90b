"""Many processes change one tree at the same time: none gets a strange error, and what they leave is one tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compare import compare_trees
from tests.support.overlaymounts import KernelOverlay, Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.stacks import Layer, build
from tests.t6_mount.posix import crowd

_PROCESSES = 4


def deep(layer: Layer) -> None:
    """All names of the crowd, in each other, with a file that has two of them."""
    for above in (b"", b"a/", b"b/", b"a/dir/", b"dir/"):
        if above:
            layer.directory(above.rstrip(b"/"))
        layer.file(above + b"file", b"lower bytes\n" * 400)
        layer.symlink(b"file", above + b"c")
    layer.directory(b"a/b")
    layer.link(b"a/file", b"a/b/sub")
    layer.file(b"sub", b"s")


def middle(layer: Layer) -> None:
    """Over it."""
    layer.directory(b"a")
    layer.whiteout(b"a/c")
    layer.directory(b"a/sub")
    layer.opaque(b"a/sub")
    layer.whiteout(b"dir")


def crowded(at: Path, seed: int, steps: int) -> None:
    command = [sys.executable, crowd.__file__, str(at)]
    running = [
        subprocess.Popen([*command, str(seed + number), str(steps)], stderr=subprocess.PIPE, text=True)
        for number in range(_PROCESSES)
    ]
    try:
        said = [process.communicate(timeout=60)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), "\n".join(said)


def differences(side: Side, copy: Path) -> list[str]:
    """Without link counts, which a copy of a directory can't have; which names are one file is looked at."""
    return [line for line in compare_trees(side.at, copy) if " nlink: " not in line]


def copied(side: Side, to: Path) -> Path:
    """What it shows, as a directory; not what the kernel's FUSE may remember of a directory for a second."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
    subprocess.run(["cp", "-a", side.at, to], check=True)
    return to


@pytest.mark.parametrize(
    ("seed", "steps"),
    [(10, 1500), (20, 1500), *(pytest.param(seed, 6000, marks=pytest.mark.slow) for seed in (1, 6, 7, 8))],
)
def test_tree_is_one_afterwards(arena: Arena, overlay: Mounter, seed: int, steps: int) -> None:
    base = arena.new_directory()
    with mounted(overlay, arena, build([deep, middle], base), base) as side:
        crowded(side.at, seed, steps)
        before = copied(side, base / "before")
        side.remount()
        assert differences(side, before) == []
        crowded(side.at, seed + 1000, steps)
        after = copied(side, base / "after")
        side.unmount()
        side.mount(KernelOverlay(index=overlay.name == "kernel"))
        assert differences(side, after) == []
        side.remount()
        subprocess.run(
            f'rm -rf {side.at}/* && test -z "$(ls -A {side.at})"', shell=True, check=True, timeout=60
        )
