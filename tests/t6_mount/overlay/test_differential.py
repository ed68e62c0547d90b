"""The overlay against the kernel's: the same calls, the same answers, the same trees.

CRFS_OVERLAY_EXAMPLES, CRFS_OVERLAY_STEPS and CRFS_OVERLAY_SEED make it longer, or another; `tox -e soak` does.
"""

import os
import random
from pathlib import Path

import pytest

from tests.support.erofsimages import need_kernel
from tests.support.mounting import Crfs
from tests.support.overlaymounts import FuseOverlay, Mounter, crfs_engine
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.images import ImageEngine
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.search import reduced, search
from tests.t6_mount.overlay.stacks import IMAGES, STACKS

EXAMPLES = int(os.environ.get("CRFS_OVERLAY_EXAMPLES", "8"))
STEPS = int(os.environ.get("CRFS_OVERLAY_STEPS", "150"))
SEED = os.environ.get("CRFS_OVERLAY_SEED", "1")
# for a finding to become shorter
_REDUCE_SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * EXAMPLES)
@pytest.mark.parametrize("stack", STACKS)
def test_answers_and_trees_are_the_kernels(arena: Arena, crfs_overlay: FuseOverlay, stack: str) -> None:
    _search(arena, crfs_overlay, stack, EXAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * EXAMPLES)
@pytest.mark.parametrize("stack", ["layered", "moved", "links"])
def test_by_the_engine_overlay(arena: Arena, crfs: Crfs, stack: str) -> None:
    _search(arena, crfs_engine("overlay", crfs.environment), stack, max(EXAMPLES // 4, 1))


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * EXAMPLES)
@pytest.mark.parametrize("stack", IMAGES)
def test_by_the_engine_erofs(arena: Arena, crfs: Crfs, tmp_path: Path, stack: str) -> None:
    """Over an image of the stack, where the kernel's has the directories."""
    need_kernel()
    trial = ImageEngine("crfs-erofs", crfs.environment, images=tmp_path)
    _search(arena, trial, stack, max(EXAMPLES // 4, 1))


def _search(arena: Arena, trial: Mounter, stack: str, number: int) -> None:
    seed = random.randrange(1 << 32) if SEED == "random" else int(SEED)
    examples = Examples(arena, trial, None, [stack])
    finding = search(examples, seed=seed, number=number, steps=STEPS)
    print(f"seed {seed}: {examples.steps} steps in {examples.number} examples, {arena.cuts} cut short")
    if finding is not None:
        pytest.fail(str(reduced(finding, examples, _REDUCE_SECONDS)), pytrace=False)
