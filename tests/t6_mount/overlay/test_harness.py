"""The comparison itself: it must find nothing where there is nothing, and what is known to be there."""

import pytest

from tests.support.overlaymounts import KernelOverlay
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.search import search
from tests.t6_mount.overlay.stacks import LINKED, STACKS


@pytest.mark.parametrize("stack", STACKS)
def test_kernel_is_as_the_kernel(arena: Arena, stack: str) -> None:
    kernel = KernelOverlay(index=stack in LINKED)
    examples = Examples(arena, kernel, None, [stack])
    found = search(examples, seed=1, number=3, steps=150)
    assert found is None, str(found)
    print(examples.number, examples.steps)
