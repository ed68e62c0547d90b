"""Answers as a page of Markdown, and the short table of starts for a README. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benches.answers import Answer, CaseAnswer
from benches.draw.numbers import is_better, label, quantity, ratio, spread
from benches.draw.tables import absences, case_title, circumstances, measures_of
from benches.stats import Summary


def page(answers: Sequence[Answer], plots: Sequence[str] = ()) -> str:
    """The whole report; `plots` are names of SVG files beside it."""
    lines = ["# Benchmarks", ""]
    lines += [
        "crfs and its peers, asked the same in one run, in turn (A B A B), from nothing each time: caches"
    ]
    lines += [
        "dropped, processes fresh. Ratios are crfs's median over the peer's: below 1 × crfs needs less."
    ]
    lines += [
        "Bold is to crfs's credit. Then the numbers: the median, and the least and most of all runs.",
        "",
    ]
    for answer in answers:
        lines += _section(answer, [plot for plot in plots if plot.startswith(f"{answer.name}.")])
    return "\n".join(lines)


def short_table(answer: Answer) -> str:
    """Of `start`: seconds, requests and bytes by link and peer."""
    rows = []
    for case in answer.cases:
        for name, peer in case.peers.items():
            if measures := peer.measures:
                totals, fetched = measures["total_s"], measures["fetched_bytes"]
                rows.append(
                    (case.link, name, quantity(totals.median, "s"), quantity(fetched.median, "bytes"))
                )
    return "\n".join(_table(("link", "with", "until the program has ended", "fetched"), rows))


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
        yield from _case(case)


def _case(case: CaseAnswer) -> Iterator[str]:
    yield from (f"### {case_title(case)}", "")
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
