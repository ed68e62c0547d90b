"""Answers as a page of Markdown, and the short table of starts for a README. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from benches.answers import Answer, CaseAnswer
from benches.draw.numbers import is_better, label, quantity, ratio, spread
from benches.draw.tables import absences, case_title, circumstances, measures_of, taken_apart
from benches.stats import Summary


def page(answers: Sequence[Answer], plots: Sequence[str] = ()) -> str:
    """The whole report; `plots` are names of SVG files beside it."""
    lines = ["# Benchmarks", ""]
    lines += [
        "crfs and its peers, asked the same on one machine, in turn (A B A B), from nothing each time: caches",
        "dropped, processes fresh. Ratios are crfs's median over the peer's: below 1 × crfs needs less, and of",
        "MB/s it does less. Bold is to crfs's credit. Then the numbers: the median, and the least and most of",
        "all runs. By `python -m benches` (docs/benches.md), which asks anew.",
        "",
    ]
    for answer in answers:
        lines += _section(answer, [plot for plot in plots if PurePath(plot).stem == answer.name])
    return "\n".join(lines)


def short_part(answers: Sequence[Answer]) -> str:
    """For a README: starts by peer and link, and the cold walks that were asked."""
    told = {answer.name: answer for answer in answers}
    parts = [draw(told[name]) for name, draw in _SHORT.items() if name in told]
    return "\n\n".join(parts)


def _short_starts(answer: Answer) -> str:
    """Seconds in all by peer and link, and bytes."""
    first = answer.cases[0]
    peers = dict.fromkeys(name for case in answer.cases for name, peer in case.peers.items() if peer.measures)
    rows = [
        (name, *(_median(case, name, "total_s") for case in answer.cases), _fetched(answer, name))
        for name in peers
    ]
    circumstances = (
        f"Until a python3 that imports numpy has finished, in an image of {_entries(first)} entries that was "
        f"never here ({answer.machine.cores} cores, medians of {answer.options['runs']}, {answer.date.split()[0]}):"
    )
    head = (
        "with",
        *(case.link for case in answer.cases),
        "fetched",
    )
    return "\n".join((circumstances, "", *_table(head, rows)))


def _short_walks(answer: Answer) -> str:
    """A line for each image."""
    return "\n".join(f"- {_short_walk(case)}" for case in answer.cases)


def _short_walk(case: CaseAnswer) -> str:
    times = [
        f"{name} {_median(case, name, 'cold_find_s')}" for name, peer in case.peers.items() if peer.measures
    ]
    return f"a cold `find` over {_entries(case)} entries: {', '.join(times)}"


def _entries(case: CaseAnswer) -> str:
    return f"{sum(case.entries.values()):,}"


def _fetched(answer: Answer, peer: str) -> str:
    """The most that any link carried, in the median."""
    found = [case.peers[peer].measures["fetched_bytes"] for case in answer.cases if case.peers[peer].measures]
    return quantity(max(it.median for it in found), "bytes")


def _median(case: CaseAnswer, peer: str, measure: str) -> str:
    found = case.peers[peer].measures.get(measure) if peer in case.peers else None
    return quantity(found.median, found.unit) if found else ""


def _section(answer: Answer, plots: Iterable[str]) -> Iterator[str]:
    question, _, rest = answer.question.partition("\n")
    yield from (f"## {answer.name}: {question}", "", rest.strip(), "")
    yield from (f"- {line}" for line in circumstances(answer))
    if answer.writers:
        tools = sorted(f"{tag} by {tool}" for tag, tool in answer.writers.items())
        yield f"- written: {'; '.join(tools)}"
    yield ""
    yield from (f"![{answer.name}]({plot})\n" for plot in plots)
    for case in answer.cases:
        yield from _case(answer, case)


def _case(answer: Answer, case: CaseAnswer) -> Iterator[str]:
    yield from (f"### {case_title(case)}", "")
    if earlier := taken_apart(answer, case):
        yield from (earlier, "")
    units = measures_of(case)
    if case.ratios_of_crfs:
        shown = [
            (label(measure), *(_ratio(found.get(measure), unit) for found in case.ratios_of_crfs.values()))
            for measure, unit in units.items()
            if any(measure in found for found in case.ratios_of_crfs.values())
        ]
        yield from (*_table(("crfs / peer", *case.ratios_of_crfs), shown), "")
    there = {name: peer for name, peer in case.peers.items() if peer.measures}
    rows = [(label(it), *(_spread(peer.measures, it) for peer in there.values())) for it in units]
    yield from (*_table(("", *there), rows), "")
    versions = [f"{name}: {peer.version}" for name, peer in case.peers.items() if peer.version]
    yield from (*(f"- {line}" for line in (*versions, *absences(case))), "")


def _spread(measures: dict[str, Summary], measure: str) -> str:
    found = measures.get(measure)
    return spread(found) if found else ""


def _ratio(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"**{ratio(value)}**" if is_better(value, unit) else ratio(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


_SHORT = {"start": _short_starts, "walk": _short_walks}
