"""Samples of what benches measure, and what is told of them: median, min and max, never a mean. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of one measure of one peer; `runs` are its samples in the order they were taken."""

    unit: str
    runs: tuple[float, ...]
    median: float
    min: float
    max: float


@dataclass(slots=True)
class Samples:
    """Numbers by peer and measure. A measure's unit is the last word of its name: `cold_walk_s` is in s."""

    taken: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, peer: str, **measures: float) -> None:
        """Keep one number of each measure."""
        for measure, value in measures.items():
            self.taken.setdefault((peer, measure), []).append(value)

    def summaries(self) -> dict[str, dict[str, Summary]]:
        """What is told, by peer and measure, in the order of the first samples."""
        told: dict[str, dict[str, Summary]] = {}
        for (peer, measure), values in self.taken.items():
            told.setdefault(peer, {})[measure] = summarize(values, measure.rpartition("_")[2])
        return told

    def ratios(self, of: str, to: str) -> dict[str, float]:
        """The median of one peer over that of another, for each measure that both have."""
        told = self.summaries()
        shared = [measure for measure in told.get(of, {}) if measure in told.get(to, {})]
        medians = {measure: (told[of][measure].median, told[to][measure].median) for measure in shared}
        return {measure: mine / theirs for measure, (mine, theirs) in medians.items() if theirs}


def summarize(values: Sequence[float], unit: str) -> Summary:
    """Raises statistics.StatisticsError where there is no value."""
    return Summary(unit, tuple(values), statistics.median(values), min(values), max(values))


def table(told: dict[str, dict[str, Summary]]) -> str:
    """The summaries as lines of text."""
    lines = [f"{'peer':<16}{'measure':<26}{'median':>14}{'min':>14}{'max':>14}  runs"]
    for peer, measures in told.items():
        for measure, summary in measures.items():
            numbers = "".join(f"{_short(value):>14}" for value in (summary.median, summary.min, summary.max))
            lines.append(f"{peer:<16}{measure:<26}{numbers}  {len(summary.runs)}")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3f}"
