"""An answer as tables on the terminal: ratios first, then the numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benches.answers import Answer, CaseAnswer
from benches.draw.numbers import is_better, label, ratio, spread

_FILE_WIDTH = 160


def print_answer(answer: Answer, console: Console | None = None) -> None:
    """Print all that is told of a question."""
    out = console or _console()
    out.rule(f"[bold]{answer.name}")
    out.print(answer.question.splitlines()[0], style="bold")
    for line in circumstances(answer):
        out.print(line, style="dim", highlight=False)
    for case in answer.cases:
        title = case_title(case)
        if case.ratios_of_crfs:
            out.print(_ratios(case, title))
        out.print(_numbers(case, title))
        for line in absences(case):
            out.print(line, style="yellow", highlight=False)


def _console() -> Console:
    """The terminal; a file, which does not say how wide it is, has room for all columns."""
    found = Console()
    return found if found.is_terminal else Console(width=_FILE_WIDTH)


def circumstances(answer: Answer) -> Iterator[str]:
    """Date, commit, machine, load and links, a line each."""
    before, after = answer.load["before"], answer.load["after"]
    yield f"{answer.date}, crfs at {answer.commit or 'no commit'}, {answer.options['runs']} runs of each"
    yield str(answer.machine)
    yield f"load {before[0]:.1f} before and {after[0]:.1f} after ({answer.machine.cores} cores)"
    for name, found in answer.fidelity.items():
        faults = "".join(f"; OFF: {fault}" for fault in found.faults())
        yield f"link {name}, as measured: {found}{faults}"


def case_title(case: CaseAnswer) -> str:
    """Its name, what is in its images, and its link where that is not its name."""
    images = ", ".join(f"{image} of {count:,} entries" for image, count in case.entries.items())
    link = case.link if case.link != "loopback" else ""
    return "; ".join(filter(None, (case.name, images if len(case.entries) < 3 else "", link)))


def taken_apart(answer: Answer, case: CaseAnswer) -> str:
    """When a case was asked, if it was not with the question's newest ones."""
    if (case.date, case.commit) == (answer.date, answer.commit):
        return ""
    return f"asked on {case.date}, crfs at {case.commit or 'no commit'}, {case.runs} runs of each"


def measures_of(case: CaseAnswer) -> dict[str, str]:
    """All measures of a case, with their units."""
    return {name: it.unit for peer in case.peers.values() for name, it in peer.measures.items()}


def absences(case: CaseAnswer) -> Iterator[str]:
    """Who has no numbers, and why."""
    for name, peer in case.peers.items():
        if peer.state != "measured":
            yield f"{name}: {peer.state}: {peer.message}"


def _ratios(case: CaseAnswer, title: str) -> Table:
    table = Table(title=f"crfs / peer: {title}", title_justify="left")
    table.add_column("measure", overflow="fold")
    for peer in case.ratios_of_crfs:
        table.add_column(peer, justify="right", overflow="fold")
    for measure, unit in measures_of(case).items():
        found = [ratios.get(measure) for ratios in case.ratios_of_crfs.values()]
        if any(found):
            table.add_row(label(measure), *(_ratio(value, unit) for value in found))
    return table


def _ratio(value: float | None, unit: str) -> Text:
    if value is None:
        return Text("")
    return Text(ratio(value), style="green" if is_better(value, unit) else "red")


def _numbers(case: CaseAnswer, title: str) -> Table:
    table = Table(title=f"median (least to most): {title}", title_justify="left")
    table.add_column("measure", overflow="fold")
    there = {name: peer for name, peer in case.peers.items() if peer.measures}
    for peer in there:
        table.add_column(peer, justify="right", overflow="fold")
    for measure in measures_of(case):
        row = [peer.measures.get(measure) for peer in there.values()]
        table.add_row(label(measure), *(spread(it, "\n") if it else "" for it in row))
    return table
