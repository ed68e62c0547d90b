"""Each call on each kind of object, as each user: the same answer, and the same changes, as in the kernel's overlay.

The objects are in the lower directory, in the lowest of ten, in the upper one, or in a tree without an upper one, where
nothing may change.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.fsops import Step
from tests.support.overlaymounts import FuseOverlay, KernelOverlay, Layers, Mounter
from tests.t6_mount.overlay.arena import Arena
from tests.t6_mount.overlay.hand import Hand
from tests.t6_mount.posix.matrix import Case, cases
from tests.t6_mount.posix.watch import Watched
from tests.t6_mount.posix.world import make

CASES = cases()
# what names mean is looked up in all layers; the rest is the same over one
LAYERED = ("open", "remove", "rename")
PLACES = [(family, where) for where in ("lower", "upper", "read-only") for family in CASES]
PLACES += [(family, "ten") for family in LAYERED]
_SHOWN = 30


def build(base: Path, chosen: Sequence[Case]) -> Path:
    """A directory with the directories of the cases."""
    base.mkdir()
    base.chmod(0o755)
    for case in chosen:
        make(os.path.join(os.fsencode(base), case.name.encode()), case.things or {})
    return base


@contextlib.contextmanager
def hand_at(mounter: Mounter, arena: Arena, layers: Layers, at: Path) -> Iterator[Hand]:
    """Who uses a new mount."""
    at.mkdir()
    mount = mounter.mount(layers, at)
    try:
        with contextlib.closing(arena.hands.hand(at, numbered=False, kinds=[Watched])) as hand:
            yield hand
        mount.unmount()
    finally:
        mount.kill()


def layers_of(base: Path, tree: Path, where: str) -> Layers:
    upper, work, empty = base / "upper", base / "work", base / "empty"
    for path in (upper, work, empty):
        path.mkdir(parents=True)
        path.chmod(0o755)
    if where == "read-only":
        return Layers((empty, tree))
    if where == "upper":
        subprocess.run(["cp", "-aT", tree, upper], check=True)
        return Layers((empty,), upper, work)
    lowers = [tree, *_more_layers(base, tree)] if where == "ten" else [tree]
    return Layers(tuple(lowers), upper, work)


def _more_layers(base: Path, tree: Path) -> Iterator[Path]:
    """Nine that have nothing but some of the cases' directories, as the tree has them: all of them merge."""
    for number in range(9):
        layer = base / f"layer{number}"
        layer.mkdir()
        layer.chmod(0o755)
        for name in sorted(os.listdir(tree))[number % 5 :: 5]:
            (layer / name).mkdir()
            shutil.copystat(tree / name, layer / name)
        yield layer


def watched(case: Case) -> list[Step]:
    top = b"/" + case.name.encode()
    return [Watched(top, step) for step in case.steps]


def differences(
    arena: Arena, right: Mounter, trial: Mounter, chosen: Sequence[Case], where: str
) -> list[str]:
    """What one of two overlays answers otherwise than the other, step by step."""
    base = arena.new_directory()
    tree = build(base / "tree", chosen)
    found = []
    with contextlib.ExitStack() as stack:
        hands: list[Hand] = []
        sides: tuple[Mounter, Mounter] = right, trial
        for mounter in sides:
            side = base / mounter.name
            layers = layers_of(side, tree, where)
            hands.append(stack.enter_context(hand_at(mounter, arena, layers, side / "merged")))
        for case in chosen:
            steps = watched(case)
            for hand in hands:
                hand.start(*steps)
            wanted, got = (hand.answers() for hand in hands)
            for step, wish, answer in zip(case.steps, wanted, got, strict=True):
                if wish != answer and not allowed(case, where, answer, wish):
                    found.append(f"{case.name}: {step!r}\n     got {answer}\n  wanted {wish}")
    return found


def allowed(case: Case, where: str, got: object, wanted: object) -> bool:
    """Whether only the copying up differs: which times of what is copied show, and what can't be copied."""
    if where not in ("lower", "ten"):
        return False
    if "-unlinked-0" in case.name or "-replaced-0" in case.name:
        # EEXIST: what has no name left is not copied up by the kernel, and can't be changed by a reader's handle
        return True
    return _without_copying(got) == _without_copying(wanted)


def _without_copying(answer: object) -> object:
    """Without the objects of which just the change time moved, or the access time, which is read from afterwards."""
    if not isinstance(answer, tuple):
        return answer
    value, changes = answer
    if not isinstance(changes, dict):
        return _without_copying(value), None if changes == ["ctime"] else changes
    kept = {path: [each for each in change if each != "atime_ns now"] for path, change in changes.items()}
    return _without_copying(value), {path: change for path, change in kept.items() if change != ["ctime"]}


@pytest.mark.parametrize(("family", "where"), PLACES)
def test_answers_are_the_kernels(arena: Arena, crfs_overlay: FuseOverlay, family: str, where: str) -> None:
    # with an index the kernel keeps hard links together, but can't copy up what has no name
    kernel = KernelOverlay(index=family != "handles")
    chosen = [case for case in CASES[family] if where != "read-only" or "-1000" in case.name]
    found = differences(arena, kernel, crfs_overlay, chosen, where)
    assert not found, f"{len(found)} differ:\n" + "\n".join(found[:_SHOWN])
