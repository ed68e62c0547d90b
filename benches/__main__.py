"""The benches' command line: list the questions, or ask them and report."""

from __future__ import annotations

import argparse
import compileall
import logging
import os
import re
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path

import crfs
from benches import answers
from benches.catalogue import NAMED_ONLY, QUESTIONS
from benches.draw.tables import print_answer
from benches.link import LOOPBACK, WAN, Shape
from benches.place import scratch, source
from benches.processes import adopt_orphans, interrupt_on_signals
from benches.question import Wanted, more_peers
from benches.registry import RegistryFailed
from benches.report import draw
from benches.runner import Runner, Tell

_SHAPES = {shape.name: shape for shape in (LOOPBACK, WAN)}
_UNITS = {"kbit": 125.0, "mbit": 125e3, "gbit": 125e6, "ms": 1e-3, "s": 1.0}


def main(argv: Sequence[str] | None = None) -> None:
    """Ask what is wanted; the status is 1 where crfs failed at something, and 130 after an interrupt."""
    options = _parser().parse_args(argv)
    if options.list:
        _list()
        return
    if os.geteuid() != 0:
        sys.exit("python -m benches: needs root: it mounts and drops the kernel's caches")
    # images that are built take minutes, and are told of
    logging.basicConfig(format="%(message)s")
    logging.getLogger("benches").setLevel(logging.INFO)
    adopt_orphans()
    interrupt_on_signals()
    try:
        sys.exit(_ask_all(options))
    except RegistryFailed as error:
        sys.exit(f"python -m benches: {error}")
    except KeyboardInterrupt:
        print("interrupted; nothing is left mounted or running", file=sys.stderr)
        sys.exit(130)


def parse_shape(text: str) -> Shape:
    """`loopback`, `wan`, or RATE,RTT like `50mbit,30ms`. Raises ValueError."""
    if text in _SHAPES:
        return _SHAPES[text]
    rate, _, trip = text.partition(",")
    return Shape(text, _quantity(rate, "kbit", "mbit", "gbit"), _quantity(trip, "ms", "s"))


def _quantity(text: str, *units: str) -> float:
    match = re.fullmatch(r"([0-9.]+) *([a-z]+)", text.strip().lower())
    if not match or match[2] not in units:
        raise ValueError(f"{text!r} is no number of {', '.join(units)}")
    return float(match[1]) * _UNITS[match[2]]


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benches", description="Ask crfs and its peers the same.")
    made.add_argument("--list", action="store_true", help="show the questions and end")
    made.add_argument("--only", metavar="NAME,...", type=_names, default=(), help="these questions, or all")
    made.add_argument("--cases", metavar="NAME,...", type=_names, default=(), help="these cases of them")
    made.add_argument("--peers", metavar="A,B", type=_names, default=(), help="these peers, or all")
    made.add_argument("--runs", type=int, default=5, help="how often each peer is asked (default 5)")
    made.add_argument("--link", type=_shape, metavar="loopback|wan|RATE,RTT", help="e.g. 50mbit,30ms")
    made.add_argument("--large", action="store_true", help="the image of 500,000 files too")
    made.add_argument("--registry", metavar="URL", help="your registry, http[s]://HOST[:PORT][/PREFIX]")
    made.add_argument("--json", type=Path, metavar="OUT", help="write all answers to OUT")
    made.add_argument("--report", type=Path, metavar="DIR", help="add to the report in DIR and draw it anew")
    return made


def _shape(text: str) -> Shape:
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _list() -> None:
    for name, question in QUESTIONS.items():
        print(
            f"{name:<12} {(question.__doc__ or '').splitlines()[0]}{' (if named)' if name in NAMED_ONLY else ''}"
        )
        print(f"{'':<12} peers: {', '.join(peer.name for peer in question.PEERS)}")
        if more := more_peers(question):
            print(f"{'':<12} if named: {', '.join(peer.name for peer in more)}")


def _ask_all(options: argparse.Namespace) -> int:
    chosen = _chosen(options.only)
    _must_be_known("peer", options.peers, _peers(chosen))
    # pip leaves it compiled; a checkout, where bytecode is not written, would compile it for each start
    compileall.compile_dir(Path(crfs.__file__).parent, quiet=2)
    told = []
    with scratch() as directory, source(options.registry) as served:
        wanted = Wanted(options.large, options.link)
        runner = Runner(served, directory, wanted, options.runs, options.peers, _telling())
        runner.build([QUESTIONS[name] for name in chosen], options.cases)
        for number, name in enumerate(chosen, start=1):
            runner.tell(f"{name}, question {number} of {len(chosen)}")
            told.append(runner.ask(name, QUESTIONS[name], options.cases))
            print_answer(told[-1])
            if options.report:
                answers.save(told[-1], options.report)
    if options.report:
        draw(options.report)
    if options.json:
        options.json.write_bytes(answers.to_json(told))
    return int(any(_crfs_failed(answer) for answer in told))


def _chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The questions that are named, all of them, or the usual ones."""
    _must_be_known("question", names, {"all", *QUESTIONS})
    if "all" in names:
        return tuple(QUESTIONS)
    return tuple(names) or tuple(name for name in QUESTIONS if name not in NAMED_ONLY)


def _must_be_known(what: str, names: Sequence[str], known: Container[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"python -m benches: no such {what}: {', '.join(unknown)}")


def _peers(questions: Sequence[str]) -> set[str]:
    asked = [QUESTIONS[name] for name in questions]
    return {"all", *(peer.name for question in asked for peer in (*question.PEERS, *more_peers(question)))}


def _telling() -> Tell:
    """What prints a line of progress, with the minutes and seconds so far."""
    begun = time.monotonic()

    def tell(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - begun), 60)
        print(f"[{minutes:02}:{seconds:02}] {line}", file=sys.stderr, flush=True)

    return tell


def _crfs_failed(answer: answers.Answer) -> bool:
    return any(case.peers["crfs"].state == "failed" for case in answer.cases if "crfs" in case.peers)


if __name__ == "__main__":
    main()
