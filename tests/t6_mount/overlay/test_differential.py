"""The overlay against the kernel's: the same calls, the same answers, the same trees.

CRFS_OVERLAY_EXAMPLES, CRFS_OVERLAY_STEPS and CRFS_OVERLAY_SEED make it longer, or another; `tox -e soak` does.
"""

import os
import random

import pytest

from tests.support.overlaymounts import FuseOverlay
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.search import reduced, search
from tests.t6_mount.overlay.stacks import STACKS

EXAMPLES = int(os.environ.get("CRFS_OVERLAY_EXAMPLES", "8"))
STEPS = int(os.environ.get("CRFS_OVERLAY_STEPS", "150"))
SEED = os.environ.get("CRFS_OVERLAY_SEED", "1")
# for a finding to become shorter
_REDUCE_SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * EXAMPLES)
@pytest.mark.parametrize("stack", STACKS)
def test_answers_and_trees_are_the_kernels(arena: Arena, crfs_overlay: FuseOverlay, stack: str) -> None:
    seed = random.randrange(1 << 32) if SEED == "random" else int(SEED)
    examples = Examples(arena, crfs_overlay, None, [stack])
    finding = search(examples, seed=seed, number=EXAMPLES, steps=STEPS)
    print(f"seed {seed}: {examples.steps} steps in {examples.number} examples, {arena.cuts} cut short")
    if finding is not None:
        pytest.fail(str(reduced(finding, examples, _REDUCE_SECONDS)), pytrace=False)
