"""Draw what was told, and put it where people read it.

`python -m benches.report DIR [FROM...]` adds the answers of directories FROM to DIR and draws DIR anew: parts of the
benches, asked at different times, make one report. `--publish ROOT` then writes it to docs/benchmarks.md of a checkout,
with its plots, and the short table to its README.md.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benches import answers
from benches.answers import Answer
from benches.catalogue import QUESTIONS
from benches.draw.markdown import page, short_part

_PART = re.compile(r"(<!-- benches: .*? -->\n).*?(<!-- benches end -->)", re.S)


def main(argv: Sequence[str] | None = None) -> None:
    """Merge, draw, and publish where that is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benches.report", description=__doc__.split("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=Path, help="the report")
    parser.add_argument("parts", metavar="FROM", type=Path, nargs="*", help="reports whose answers are added")
    parser.add_argument("--publish", metavar="ROOT", type=Path, help="a checkout of crfs")
    options = parser.parse_args(argv)
    try:
        for part in options.parts:
            for answer in _answers(part):
                answers.save(answer, options.directory)
        draw(options.directory)
        if options.publish:
            publish(options.directory, options.publish)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        sys.exit(f"python -m benches.report: {error}")


def draw(directory: Path) -> None:
    """Draw the page and the plots of all answers in a directory."""
    # matplotlib is of the extra `bench`, and is needed for nothing else
    from benches.draw.plots import draw_all

    told = _answers(directory)
    plots = draw_all(told, directory)
    (directory / "benchmarks.md").write_text(page(told, plots))
    (directory / "report.json").write_bytes(answers.to_json(told))


def publish(directory: Path, root: Path) -> None:
    """Copy a report that was drawn into a checkout's docs, and its starts into the README."""
    told, plots = _answers(directory), sorted(directory.glob("*.svg"))
    into = root / "docs" / "benchmarks"
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("*.svg"):
        old.unlink()
    for plot in plots:
        shutil.copyfile(plot, into / plot.name)
    names = [f"{into.name}/{plot.name}" for plot in plots]
    (root / "docs" / "benchmarks.md").write_text(page(told, names))
    readme = root / "README.md"
    readme.write_text(with_part(readme.read_text(), short_part(told)))


def with_part(text: str, part: str) -> str:
    """A page with another text between its marks for it. Raises ValueError where it has none."""
    found, count = _PART.subn(lambda marks: f"{marks[1]}\n{part}\n\n{marks[2]}", text)
    if count != 1:
        raise ValueError("no place is marked for the short table")
    return found


def _answers(directory: Path) -> list[Answer]:
    """Raises ValueError where there are none."""
    found = answers.load_all(directory, list(QUESTIONS))
    if not found:
        raise ValueError(f"{directory} has no answers")
    return found


if __name__ == "__main__":
    main()
