"""An example: a pair that takes steps, and the names that steps may use. See `rules` for what they do.

Names are chosen among those that the oracle has at the time, and among a few that it may not have, so that
most steps meet something.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from tests.support.fsops import Step
from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.pair import Mismatch, Pair
from tests.t6_mount.overlay.stacks import LONG, LONG_UTF8

NAMES = (b"a", b"b", b"c", b"x", b"dir", b"file", b"new", b"sub", b"empty", LONG, LONG_UTF8)
ODD = (b"L" * 256, b".", b"..", b"", b"no/such", b"a/", b"dir/")

# what `st.data()` hands to a rule: a choice from a strategy
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(slots=True)
class Examples:
    """What all examples of a search share. Once something is found, no more steps are taken.

    A difference of a kind that is `known` ends its example and is not found.
    """

    arena: Arena
    trial: Mounter
    oracle: Mounter | None
    stacks: Sequence[str]
    known: Collection[str] = ()
    number: int = 0
    steps: int = 0
    found: tuple[Pair, Mismatch] | None = None

    def new_pair(self, stack: str, *, looking: bool) -> Pair:
        return Pair(self.arena, stack, self.trial, self.oracle, looking=looking)


class OverlayMachine(RuleBasedStateMachine):
    """One example. A subclass says of which search."""

    examples: ClassVar[Examples]

    def __init__(self) -> None:
        super().__init__()
        self._pair: Pair | None = None
        self._tree: list[tuple[bytes, str]] = []
        self._stack, self._looking = "", False

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        if self.examples.found is not None:
            raise self.examples.found[1]
        self._stack, self._looking = data.draw(of(self.examples.stacks)), data.draw(of((True, True, False)))

    @property
    def tree(self) -> list[tuple[bytes, str]]:
        """Every path that there is, and the letter of its type. Nothing is mounted before somebody asks."""
        if self._pair is None:
            self.examples.number += 1
            self._pair = self.examples.new_pair(self._stack, looking=self._looking)
            with self._finding():
                self._pair.mount()
            self._tree = self._pair.tree()
        return self._tree

    def take(self, step: Step) -> None:
        """Have the step taken and compared."""
        if not self.tree or self._pair is None or self._pair.cut:
            return
        self.examples.steps += 1
        with self._finding():
            self._pair.step(step)
            self._tree = self._pair.tree()

    def teardown(self) -> None:
        if self._pair is None:
            return
        try:
            if self.examples.found is None:
                with self._finding():
                    self._pair.finish()
        finally:
            self._pair.close()

    @contextlib.contextmanager
    def _finding(self) -> Iterator[None]:
        try:
            yield
        except Mismatch as mismatch:
            assert self._pair is not None
            if mismatch.kind in self.examples.known:
                self._pair.cut = mismatch.kind
                return
            self.examples.found = self._pair, mismatch
            raise

    # ---- names

    def existing(self, draw: Draw, kinds: str = "") -> bytes:
        """A path that is there, mostly of one of these types."""
        paths = [path for path, kind in self.tree if kind in kinds] if kinds else []
        if not paths or draw(of(range(8))) == 0:
            paths = [path for path, _ in self.tree]
        found: bytes = draw(of(paths))
        return found

    def fresh(self, draw: Draw) -> bytes:
        """A path that may not be there, in a directory that is."""
        return os.path.normpath(os.path.join(self.existing(draw, "d"), draw(of(NAMES))))

    def odd(self, draw: Draw) -> bytes:
        """Below something that may be no directory, or a name that can't be."""
        return os.path.join(self.existing(draw, "dl"), draw(of(NAMES + ODD)))

    def path(self, draw: Draw, kinds: str = "") -> bytes:
        """Mostly a path that is there."""
        choice = draw(of(range(12)))
        if choice < 10:
            return self.existing(draw, kinds)
        return self.fresh(draw) if choice == 10 else self.odd(draw)

    def target(self, draw: Draw) -> bytes:
        """Mostly a path that isn't there."""
        choice = draw(of(range(12)))
        if choice < 8:
            return self.fresh(draw)
        return self.existing(draw) if choice < 11 else self.odd(draw)

    def children(self, path: bytes) -> list[bytes]:
        """The entries of a directory."""
        prefix = b"" if path == b"." else path + b"/"
        below = [each for each, _ in self.tree if each.startswith(prefix) and each != b"."]
        return [each for each in below if b"/" not in each[len(prefix) :]]


def of(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of them."""
    return st.sampled_from(values)
