"""What the scripts of findings call: take steps on two overlays, and say where they differ."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.fsops import Step
from tests.support.overlaymounts import mounters
from tests.t6_mount.overlay.arena import arena_in
from tests.t6_mount.overlay.pair import Pair
from tests.t6_mount.overlay.search import attempt


def replay(trial: str, stack: str, steps: Sequence[Step], *, looking: bool) -> None:
    """Print the first difference, and exit with 1 if there is one. An argument names another overlay to try."""
    name = sys.argv[1] if len(sys.argv) > 1 else trial
    with tempfile.TemporaryDirectory() as directory, arena_in(Path(directory)) as arena:
        mismatch = attempt(Pair(arena, stack, mounters({})[name], looking=looking), steps)
    print(f"{name}: {mismatch or 'no difference'}")
    sys.exit(mismatch is not None)
