"""Look for steps that tell two overlays apart, and make what was found short. One thread, as root.

A search is determined by its seed. What it finds is a `Finding`, whose `script()` does it again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.errors import HypothesisException
from hypothesis.stateful import run_state_machine_as_test

from tests.support.fsops import Step
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.pair import Mismatch, Pair
from tests.t6_mount.overlay.rules import RandomSteps

_SCRIPT = '''\
"""Found with seed {seed}; again with, as root and at the top of the repository,

    PYTHONPATH=. python FILE
"""

import os

from tests.support.fsops import *
from tests.t6_mount.overlay.pair import Remount
from tests.t6_mount.overlay.replay import replay

STEPS = [
{steps}]

if __name__ == "__main__":
    replay({trial!r}, {stack!r}, STEPS, looking={looking})
'''


@dataclass(frozen=True, slots=True)
class Finding:
    """Steps after which two overlays differ."""

    trial: str
    seed: int
    stack: str
    looking: bool
    steps: tuple[Step, ...]
    mismatch: Mismatch

    def script(self) -> str:
        """A program that takes the steps and says what differs."""
        steps = "".join(f"    {step!r},\n" for step in self.steps)
        return _SCRIPT.format(
            seed=self.seed, trial=self.trial, stack=self.stack, looking=self.looking, steps=steps
        )

    def __str__(self) -> str:
        number = len(self.steps)
        return f"{self.trial}, after {number} steps on {self.stack!r}: {self.mismatch}\n\n{self.script()}"


def search(examples: Examples, *, seed: int, number: int, steps: int) -> Finding | None:
    """What the first of `number` examples of `steps` steps finds, if any does."""
    machine = type("Machine", (RandomSteps,), {"examples": examples})
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=_settings(number, steps))
    except (Mismatch, HypothesisException):
        if examples.found is None:
            raise
    if examples.found is None:
        return None
    pair, mismatch = examples.found
    return Finding(examples.trial.name, seed, pair.stack, pair.looking, tuple(pair.steps), mismatch)


def _settings(number: int, steps: int) -> settings:
    """hypothesis only chooses: its database and shrinking know nothing of what mounting costs."""
    return settings(
        max_examples=number,
        stateful_step_count=steps,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )


def attempt(pair: Pair, steps: Sequence[Step]) -> Mismatch | None:
    """What is different after these steps, if anything."""
    with contextlib.closing(pair):
        try:
            pair.mount()
            for step in steps:
                pair.step(step)
            pair.finish()
        except Mismatch as mismatch:
            return mismatch
    return None


def reduced(finding: Finding, examples: Examples, seconds: float) -> Finding:
    """The same with fewer steps: none can be left out, or there was no more time to try."""
    deadline = time.monotonic() + seconds
    size = max(1, len(finding.steps) // 2)
    while time.monotonic() < deadline:
        shorter = _shorter(finding, examples, size, deadline)
        if shorter is not finding:
            finding = shorter
        elif size == 1:
            break
        size = max(1, min(size, len(finding.steps)) // 2)
    return finding


def _shorter(finding: Finding, examples: Examples, size: int, deadline: float) -> Finding:
    """Leave out every `size` steps without which it still happens, the last ones first."""
    end = len(finding.steps)
    while end > 0 and time.monotonic() < deadline:
        start = max(0, end - size)
        steps = finding.steps[:start] + finding.steps[end:]
        mismatch = attempt(examples.new_pair(finding.stack, looking=finding.looking), steps)
        if mismatch is not None and mismatch.kind == finding.mismatch.kind:
            finding = replace(finding, steps=steps, mismatch=mismatch)
        end = start
    return finding
