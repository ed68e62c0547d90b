"""Ask a question: every peer in turn in every case, from a fresh start each time."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches import images
from benches.answers import Answer, CaseAnswer, PeerAnswer
from benches.cache import remove_tree
from benches.commands import CommandFailed
from benches.containerd import ConverterMissing
from benches.fidelity import Fidelity, measure
from benches.link import Link, Shape, link
from benches.machine import commit, machine
from benches.mounts import WrongMount, drop_caches, sweep
from benches.peers.peer import NotHere, Peer
from benches.place import Place, Source
from benches.processes import StillRunning, descendants, end_new, ending_after
from benches.question import Asking, Case, Question, Unmeasured, Wanted, more_peers
from benches.stats import Samples

FAILURES = (
    CommandFailed,
    WrongMount,
    Unmeasured,
    StillRunning,
    OSError,
    ValueError,
    subprocess.SubprocessError,
)

_LINE = 400
# seconds for one peer, once: who is stuck is out, and the others go on
_LIMIT, _LIMIT_OF_LARGE = 300.0, 1200.0
# a machine that is busy with something else for a moment is no fault of the link's
_MEASUREMENTS = 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Runner:
    """Asks questions of a source's images, in directories below `scratch`."""

    source: Source
    scratch: Path
    wanted: Wanted
    runs: int = 5
    peers: tuple[str, ...] = ()
    tell: Tell = field(default=lambda line: print(line, file=sys.stderr, flush=True))
    fidelity: dict[str, Fidelity] = field(default_factory=dict)

    def build(self, questions: Sequence[Question], only_cases: Sequence[str] = ()) -> None:
        """Build the images of questions, two at once; what fails here is tried again by who needs it."""
        cases = [case for question in questions for case in self._cases(question, only_cases)]
        wanted = list(dict.fromkeys(image for case in cases for image in case.images))
        self.tell(f"images: {', '.join(wanted) or 'none'}")
        with images.built_beside(wanted[1:]):
            try:
                for first in wanted[:1]:
                    images.layout(first)
            except FAILURES as error:
                self.tell(_one_line(error))

    def _cases(self, question: Question, only: Sequence[str]) -> list[Case]:
        return [case for case in question.cases(self.wanted) if not only or case.name in only]

    def ask(self, name: str, question: Question, only_cases: Sequence[str] = ()) -> Answer:
        """All cases of a question."""
        before, extra, at = os.getloadavg(), dict[str, Any](), (_now(), commit())
        cases = self._cases(question, only_cases)
        told = [self._ask_case(name, question, case, extra, at) for case in cases]
        return Answer(
            name=name,
            question=(question.__doc__ or "").strip(),
            date=at[0],
            commit=at[1],
            options={"runs": self._runs_of(question), "large": self.wanted.large},
            machine=machine(),
            load={"before": before, "after": os.getloadavg()},
            writers=self._writers(question, cases),
            fidelity={shape: self.fidelity[shape] for shape in {case.shape.name for case in cases}},
            cases=told,
            extra=extra,
        )

    def _ask_case(
        self, name: str, question: Question, case: Case, extra: dict[str, Any], at: tuple[str, str]
    ) -> CaseAnswer:
        self._measure_link(case.shape)
        panel = Panel(chosen_peers(question, self.peers))
        panel.call(lambda peer: self._prepare(peer, case))
        to = self.source
        runs = self._runs_of(question)
        with link(to.port, case.shape, to_host=to.host) as linked:
            for turn in range(runs):
                for peer in panel.rotated(turn):
                    took = self._ask_once(question, panel, peer, case, linked, extra)
                    self.tell(f"{name}, {case.name}: run {turn + 1} of {runs}: {peer.name} {took}")
        entries = {image: images.entries(image) for image in case.images}
        return CaseAnswer(case.name, str(case.shape), entries, panel.answers(), panel.ratios(), *at, runs)

    def _ask_once(
        self, question: Question, panel: Panel, peer: Peer, case: Case, linked: Link, extra: dict[str, Any]
    ) -> str:
        """How long it took, or why a peer failed; also where it is what it left that can't be taken away."""
        try:
            with self._place(linked) as place, ending_after(self._limit(), set(place.before)) as late:
                took = panel.ask(question, Asking(peer, case, place, panel.samples, extra))
            if late.is_set():
                raise Unmeasured(f"no end within {self._limit():.0f} s")
            return took
        except FAILURES as error:
            return panel.fail(peer, error)

    def _limit(self) -> float:
        return _LIMIT_OF_LARGE if self.wanted.large else _LIMIT

    def _runs_of(self, question: Question) -> int:
        """A picture needs no more than one."""
        most: int = getattr(question, "MOST_RUNS", self.runs)
        return min(self.runs, most)

    def _measure_link(self, shape: Shape) -> None:
        if shape.name in self.fidelity:
            return
        for _ in range(_MEASUREMENTS):
            self.fidelity[shape.name] = found = measure(shape)
            faults = "".join(f"; OFF: {fault}" for fault in found.faults())
            self.tell(f"link {shape}: {found}{faults}")
            if not faults:
                break

    def _prepare(self, peer: Peer, case: Case) -> None:
        for image in case.images:
            if (prepare := getattr(peer, "prepare", None)) is not None:
                self.tell(f"{case.name}: {image} for {peer.name}")
                prepare(image, self.source)

    @contextmanager
    def _place(self, linked: Link) -> Iterator[Place]:
        """A new directory with nothing running or mounted in it, before and after."""
        before = descendants()
        path = Path(tempfile.mkdtemp(prefix="run-", dir=self.scratch))
        drop_caches()
        try:
            yield Place(self.source, linked, path, frozenset(before))
        finally:
            end_new(before)
            sweep()
            remove_tree(path)

    def _writers(self, question: Question, cases: Sequence[Case]) -> dict[str, str]:
        """Which tool wrote each image's tags that were asked for and are in the registry."""
        found = {}
        asked = {getattr(peer, "tag", "plain") for peer in chosen_peers(question, self.peers)}
        for image in sorted({image for case in cases for image in case.images}):
            for tag in asked.intersection(images.pushed_tags(image, self.source.own)):
                found[f"{image}:{tag}"] = images.writer(image, self.source.own, tag)
        return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def chosen_peers(question: Question, names: Sequence[str]) -> list[Peer]:
    """The usual ones, those that are named, or with the name `all` everybody that a question has."""
    if not names:
        return list(question.PEERS)
    return [peer for peer in (*question.PEERS, *more_peers(question)) if peer.name in names or "all" in names]


def _one_line(error: BaseException) -> str:
    """What a table has room for: of a long message, how it begins and how it ends."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= _LINE else f"{words[: _LINE // 2]} ... {words[-_LINE // 2 :]}"


@dataclass(slots=True)
class Panel:
    """The peers of one case: who is here, who failed, and what the others' numbers are."""

    peers: Sequence[Peer]
    samples: Samples = field(default_factory=Samples)
    versions: dict[str, str] = field(default_factory=dict)
    out: dict[str, PeerAnswer] = field(default_factory=dict)
    said: str | None = None

    def call(self, prepare: Callable[[Peer], None]) -> None:
        """Ask each for its version and let it prepare itself."""
        for peer in self.peers:
            try:
                self.versions[peer.name] = peer.version()
                prepare(peer)
            except NotHere as error:
                self.out[peer.name] = PeerAnswer("not here", message=str(error))
            except (*FAILURES, images.NoWriter, ConverterMissing) as error:
                self.fail(peer, error)

    def rotated(self, turn: int) -> Iterator[Peer]:
        """Those that are still in, beginning with another one each turn: none always follows the same."""
        here = [peer for peer in self.peers if peer.name not in self.out]
        first = turn % len(here) if here else 0
        return (peer for peer in [*here[first:], *here[:first]])

    def ask(self, question: Question, asking: Asking) -> str:
        """Ask one peer; how long it took, or why it failed, which puts it out."""
        begun = time.monotonic()
        try:
            self._compare(question.ask(asking))
        except NotHere as error:
            self.out[asking.peer.name] = PeerAnswer("not here", message=str(error))
            return f"not here: {error}"
        except FAILURES as error:
            return self.fail(asking.peer, error)
        return f"{time.monotonic() - begun:.1f} s"

    def answers(self) -> dict[str, PeerAnswer]:
        """What is told of each, in the order of the question's peers."""
        told = self.samples.summaries()
        return {peer.name: self.out.get(peer.name) or self._measured(peer, told) for peer in self.peers}

    def ratios(self) -> dict[str, dict[str, float]]:
        """crfs over each of the others that was measured."""
        others = [peer.name for peer in self.peers if peer.name != "crfs" and peer.name not in self.out]
        if "crfs" in self.out:
            return {}
        return {other: found for other in others if (found := self.samples.ratios("crfs", other))}

    def _measured(self, peer: Peer, told: dict[str, dict[str, Any]]) -> PeerAnswer:
        return PeerAnswer("measured", self.versions[peer.name], measures=told.get(peer.name, {}))

    def fail(self, peer: Peer, error: BaseException) -> str:
        """Put a peer out, and say so."""
        version = self.versions.get(peer.name, "")
        self.out[peer.name] = PeerAnswer("failed", version, _one_line(error))
        return f"FAILED: {_one_line(error)}"

    def _compare(self, said: str) -> None:
        """Raises Unmeasured where a peer's program said what another's did not."""
        if self.said is None:
            self.said = said
        elif said != self.said:
            raise Unmeasured(f"its program said {said[:200]!r}, another peer's {self.said[:200]!r}")
