"""The same steps on two overlays over the same lower directories: one on trial, and one that is right.

    with contextlib.closing(Pair(arena, "rich", trial)) as pair:
        pair.mount()
        pair.step(Unlink(b"dir/file"))
        pair.finish()

Whatever differs raises Mismatch, unless `divergences` says why it may. One thread, as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fsops import Failed, Inodes, Look, Place, Step, Walk, Within
from tests.support.overlaymounts import CrfsEngine, FuseOverlay, KernelOverlay, Mounter, MountFailed
from tests.t6_mount.overlay.arena import Arena, Side, signature
from tests.t6_mount.overlay.divergences import allowed
from tests.t6_mount.overlay.hand import Compare, HandLost
from tests.t6_mount.overlay.stacks import LINKED, UNMARKED


class Mismatch(AssertionError):
    """The two differ. `kind` is the same for what is likely to have the same cause."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True, repr=False)
class Remount(Step):
    """Not a call: both are unmounted, whatever is open, and mounted again."""

    def run(self, place: Place) -> object:
        raise NotImplementedError


class Pair:
    """See the module. With `looking`, everything about the names of a step is compared after it, too."""

    def __init__(
        self, arena: Arena, stack: str, trial: Mounter, oracle: Mounter | None = None, *, looking: bool = True
    ) -> None:
        self.stack = stack
        self.looking = looking
        self.steps: list[Step] = []
        # why nothing is compared any more, if so
        self.cut: str | None = None
        self._counted = True
        self._arena = arena
        self._base = arena.new_directory()
        self._lowers = arena.lowers(stack)
        self._before = signature(self._lowers)
        self._is_kernels = isinstance(trial, CrfsEngine)
        right = oracle or (
            trial.kernel if isinstance(trial, CrfsEngine) else KernelOverlay(index=stack in LINKED)
        )
        self._trial = Side.create(trial, arena, self._lowers, self._base / "trial")
        self._oracle = Side.create(right, arena, self._lowers, self._base / "oracle")
        self._comparing = arena.hand(None)
        # its upper directory and the oracle's have different marks
        self._userxattr = isinstance(trial, FuseOverlay) and "userxattr" in trial.options

    def mount(self) -> None:
        """Before the first step."""
        try:
            self._oracle.mount(counted=self._counted)
            self._trial.mount(counted=self._counted)
        except MountFailed as error:
            raise Mismatch("mount", str(error)) from error

    def tree(self) -> list[tuple[bytes, str]]:
        """Every path of the oracle, with the letter of its type."""
        (found,) = self._oracle.call(Walk())
        assert isinstance(found, list), found
        return found

    def step(self, step: Step) -> None:
        """Take a step on both sides. Once an allowed difference leaves two trees, steps are not taken any more."""
        if self.cut is not None:
            return
        self.steps.append(step)
        if isinstance(step, Remount):
            self._remount()
            return
        for each in [step, *(self._looks(step) if self.looking else ())]:
            self._take(each)

    def finish(self) -> None:
        """Compare the trees: as they are, mounted again, and each mounted by the other."""
        if self.cut is None:
            self._compare("tree", "trees differ")
            self._remount()
            self._compare("remounted", "trees differ once both are mounted again")
            if self._userxattr:
                self._exchange_without_privileges()
            else:
                self._exchange()
        self._check_lowers()

    def close(self) -> None:
        self._comparing.close()
        self._trial.close()
        self._oracle.close()
        shutil.rmtree(self._base)

    def _unmount(self) -> None:
        try:
            self._trial.unmount()
            self._oracle.unmount()
        except MountFailed as error:
            raise Mismatch("unmount", str(error)) from error

    def _remount(self) -> None:
        before = self._inodes()
        self._unmount()
        self.mount()
        changed = [path for path, number in self._inodes().items() if before.get(path) != number]
        if self._is_kernels:
            # the kernel knows a copied-up file by a handle of the lower one, which a stack of directories has not
            changed = []
        elif self._userxattr:
            # no mark can be put on anything else
            lasting = {path for path, kind in self.tree() if kind in "-d"}
            changed = [path for path in changed if path in lasting]
        if changed:
            raise Mismatch("inodes", f"other inode numbers once it is mounted again: {changed}")

    def _inodes(self) -> dict[bytes, int]:
        """The numbers of the side on trial, as far as they can be told apart."""
        if not self._arena.numbered:
            return {}
        (found,) = self._trial.call(Inodes())
        assert isinstance(found, tuple), found
        numbers, wrong = found
        if wrong:
            raise Mismatch("inodes", f"wrong inode numbers: {wrong}")
        return dict(numbers)

    def _take(self, step: Step) -> None:
        (wanted,) = self._oracle.call(step)
        try:
            (got,) = self._trial.call(step)
        except HandLost as error:
            raise Mismatch(
                f"{type(step).__name__} is lost", f"{step!r}: {error}; wanted {wanted!r}"
            ) from error
        if got == wanted:
            return
        excuse = allowed(step, got, wanted)
        if excuse is None:
            raise Mismatch(_kind(step, got, wanted), f"{step!r}\n     got {got!r}\n  wanted {wanted!r}")
        if excuse.cuts:
            self._arena.cuts += 1
            self.cut = excuse.name

    def _looks(self, step: Step) -> Iterator[Step]:
        for path in _paths(step):
            yield Look(path)
            yield Look(os.path.dirname(path.rstrip(b"/")) or b".")

    def _compare(self, kind: str, text: str, oracle: Side | None = None, trial: Side | None = None) -> None:
        paths = [(trial or self._trial).at, (oracle or self._oracle).at]
        try:
            (found,) = self._comparing.call(Compare(paths[0], paths[1], self._counted), seconds=120)
        except HandLost as error:
            raise Mismatch(kind, f"{text}: {error}") from error
        if isinstance(found, Failed) or found:
            lines = found if isinstance(found, list) else [repr(found)]
            raise Mismatch(kind, f"{text}:\n" + "\n".join(f"  {line}" for line in lines))

    def _exchange_without_privileges(self) -> None:
        """What the kernel shows of the upper directory on trial, over lower ones that have no marks of root's."""
        if self.stack not in UNMARKED:
            return
        self._trial.unmount()
        self._counted = self.stack not in LINKED
        self._mount_by(self._trial, KernelOverlay(userxattr=True), "the kernel can't mount it with userxattr")
        self._compare("upper", "the kernel shows another tree of the upper directory on trial")

    def _exchange(self) -> None:
        """Each upper directory as the other program sees it.

        The oracle's is compared with what the kernel shows of a copy of it, without an index: an index of hard
        links is the kernel's own, and no other program can see it.
        """
        self._trial.unmount()
        self._counted = self.stack not in LINKED
        self._mount_by(
            self._trial, KernelOverlay(metacopy=True), "the kernel can't mount the upper directory on trial"
        )
        self._compare("upper", "the kernel shows another tree of the upper directory on trial")
        self._unmount()
        reference = self._copy("reference")
        other = self._copy("copy") if self.stack in LINKED else self._oracle
        try:
            reference.mount()
            self._mount_by(other, self._trial.mounter, "the kernel's upper directory can't be mounted")
            self._compare(
                "kernel's upper", "the kernel's upper directory shows another tree", reference, other
            )
            other.unmount()
        finally:
            reference.close()
            other.close()

    def _mount_by(self, side: Side, mounter: Mounter, text: str) -> None:
        try:
            side.mount(mounter)
        except MountFailed as error:
            raise Mismatch(text, f"{text}: {error}") from error

    def _copy(self, name: str) -> Side:
        """Another side, for the kernel, with a copy of the oracle's upper directory."""
        copy = Side.create(KernelOverlay(metacopy=True), self._arena, self._lowers, self._base / name)
        subprocess.run(["cp", "-aT", self._oracle.upper, copy.upper], check=True)
        return copy

    def _check_lowers(self) -> None:
        after = signature(self._lowers)
        changed = sorted(
            path for path in self._before.keys() | after.keys() if self._before.get(path) != after.get(path)
        )
        if changed:
            raise Mismatch("lower", f"lower directories were written to: {changed}")


def _paths(step: Step) -> list[bytes]:
    """The names that a step says something about, in the root's tree."""
    found = [getattr(step, name) for name in ("source", "path") if hasattr(step, name)]
    return [path for path in found if len(path) < 1000]


def _kind(step: Step, got: object, wanted: object) -> str:
    name = type(step.step if isinstance(step, Within) else step).__name__
    if isinstance(got, Failed) or isinstance(wanted, Failed):
        words = [answer.errno if isinstance(answer, Failed) else "an answer" for answer in (got, wanted)]
        return f"{name}: {words[0]} instead of {words[1]}"
    return f"{name}: other {_what_differs(got, wanted)}"


def _what_differs(got: object, wanted: object) -> str:
    """Which attributes, where answers are the descriptions of `Place`."""
    left, right = (
        set(str(answer[0] if isinstance(answer, tuple) else answer).split()) for answer in (got, wanted)
    )
    names = sorted(
        {word.partition("=")[0] for word in left ^ right} & {"mtime", "size", "nlink", "rdev", "ino"}
    )
    return ", ".join(names) or "answer"
