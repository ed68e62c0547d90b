"""All kinds of differences that one overlay has, each with a script that shows it.

    python -m tests.t6_mount.overlay.survey fuse-overlayfs --searches 20 --into DIR

As root, at the top of the repository. A kind that was found ends later examples, but not the survey.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.overlaymounts import mounters
from tests.t6_mount.overlay.arena import Arena, arena_in
from tests.t6_mount.overlay.machine import Examples
from tests.t6_mount.overlay.search import reduced, search
from tests.t6_mount.overlay.stacks import STACKS


def main(argv: Sequence[str] | None = None) -> int:
    """1 if there are differences."""
    options = _parser().parse_args(argv)
    # nothing stays mounted where it is told to end
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as directory, arena_in(Path(directory)) as arena:
        return 1 if _survey(arena, options) else 0


def _survey(arena: Arena, options: argparse.Namespace) -> set[str]:
    known: set[str] = set(options.known)
    for seed in range(options.seed, options.seed + options.searches):
        examples = Examples(arena, mounters({})[options.overlay], None, options.stack or list(STACKS), known)
        finding = search(examples, seed=seed, number=options.examples, steps=options.steps)
        print(f"seed {seed}: {examples.number} examples, {examples.steps} steps", flush=True)
        if finding is None:
            continue
        known.add(finding.mismatch.kind)
        finding = reduced(finding, examples, options.reduce)
        path = options.into / f"{options.overlay}-{seed}.py"
        path.write_text(finding.script())
        print(f"  {finding.mismatch.kind}\n  {path}: {finding.mismatch}", flush=True)
    return known


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.t6_mount.overlay.survey", description=__doc__)
    parser.add_argument("overlay", choices=mounters({}))
    parser.add_argument("--stack", action="append", choices=STACKS, help="all without it")
    parser.add_argument("--seed", type=int, default=1, help="of the first search")
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--examples", type=int, default=10, help="of a search")
    parser.add_argument("--steps", type=int, default=100, help="of an example")
    parser.add_argument("--reduce", type=float, default=60, metavar="SECONDS", help="to shorten a finding")
    parser.add_argument(
        "--known", action="append", default=[], metavar="KIND", help="differences to pass over"
    )
    parser.add_argument("--into", type=Path, default=Path.cwd(), metavar="DIR", help="for the scripts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
