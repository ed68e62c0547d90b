"""What comes of asking: values, kept as JSON, from which tables and plots are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benches.fidelity import Fidelity
from benches.machine import Machine
from benches.stats import Summary


class PeerAnswer(msgspec.Struct, frozen=True):
    """One peer in one case. `state` is "measured", "not here" or "failed"; the last two have a message."""

    state: str
    version: str = ""
    message: str = ""
    measures: dict[str, Summary] = {}


class CaseAnswer(msgspec.Struct, frozen=True):
    """One case, and when it was asked: by peer, and crfs's medians over each other peer's."""

    name: str
    link: str
    entries: dict[str, int]
    peers: dict[str, PeerAnswer]
    ratios_of_crfs: dict[str, dict[str, float]]
    date: str
    commit: str
    runs: int


class Answer(msgspec.Struct, frozen=True):
    """All of one question, with the circumstances it was asked in."""

    name: str
    question: str
    date: str
    commit: str
    options: dict[str, Any]
    machine: Machine
    load: dict[str, tuple[float, float, float]]
    writers: dict[str, str]
    fidelity: dict[str, Fidelity]
    cases: list[CaseAnswer]
    extra: dict[str, Any] = {}

    def peers(self) -> list[str]:
        """All peers of all cases, in the order of their first appearance."""
        return list(dict.fromkeys(peer for case in self.cases for peer in case.peers))


def save(answer: Answer, into: Path) -> None:
    """Write `into`/NAME.json; of an earlier answer, cases that were not asked now are kept."""
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{answer.name}.json"
    path.write_bytes(to_json(merged(load(path), answer) if path.exists() else answer))


def merged(old: Answer, new: Answer) -> Answer:
    """The new answer, and the old one's cases that it does not have."""
    asked = {case.name for case in new.cases}
    kept = [case for case in old.cases if case.name not in asked]
    fidelity, writers = {**old.fidelity, **new.fidelity}, {**old.writers, **new.writers}
    return msgspec.structs.replace(
        new,
        cases=[*kept, *new.cases],
        fidelity=fidelity,
        writers=writers,
        extra={**old.extra, **new.extra},
    )


def load(path: Path) -> Answer:
    """Raises msgspec.MsgspecError where a file is no answer."""
    return msgspec.json.decode(path.read_bytes(), type=Answer)


def load_all(directory: Path, order: list[str]) -> list[Answer]:
    """The answers that a directory has, in the order of the questions' names."""
    return [load(path) for name in order if (path := directory / f"{name}.json").exists()]


def to_json(value: Answer | list[Answer]) -> bytes:
    """Indented, for people too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
