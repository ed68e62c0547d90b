"""A bench's command line and its answer: a table, and JSON that tells the machine, load and versions too."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benches.commands import CommandFailed, run
from benches.mounts import crfs_program
from benches.stats import Samples, table

_ROOT = Path(__file__).resolve().parent.parent
_OPTIONS = ("runs", "tag", "peers", "round_trip", "rate")
_PACKAGES = ("docker-registry", "fuse-overlayfs", "umoci", "stargz-snapshotter", "containerd", "libfuse2")


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The options that every bench has; `doc` is the bench's question."""
    made = argparse.ArgumentParser(
        prog=f"python -m benches.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="write the whole answer to OUT")
    made.add_argument("--runs", type=int, default=5, help="how often each peer is asked (default 5)")
    made.add_argument("--tag", default="esgz", help="the tag that crfs mounts (default esgz)")
    made.add_argument("--peers", help="only these, with commas between them")
    return made


def parse(
    made: argparse.ArgumentParser, peers: Sequence[str], argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a bench's options; `.peers` becomes the list of peers to ask. Ends the program without root."""
    options = made.parse_args(argv)
    options.peers = options.peers.split(",") if options.peers else list(peers)
    if unknown := set(options.peers) - set(peers):
        made.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
    if os.geteuid() != 0:
        made.error("needs root: it mounts and drops the kernel's caches")
    options.load_before = os.getloadavg()
    return options


def rotated(peers: Sequence[str], turn: int) -> list[str]:
    """The peers beginning with another one each turn, so that none always follows the same."""
    first = turn % len(peers)
    return [*peers[first:], *peers[:first]]


def answer(options: argparse.Namespace, question: str, samples: Samples) -> None:
    """Print the table, with crfs over each peer, and write the JSON where it's wanted."""
    told = samples.summaries()
    print(table(told))
    ratios = {peer: samples.ratios("crfs", peer) for peer in told if peer != "crfs"}
    for peer, measures in ratios.items():
        for measure, ratio in measures.items():
            print(f"crfs / {peer}: {measure} {ratio:.2f}")
    if options.json:
        whole = {
            "question": question.strip(),
            "options": {key: value for key, value in vars(options).items() if key in _OPTIONS},
            "machine": machine(),
            "load": {"before": options.load_before, "after": os.getloadavg()},
            "versions": versions(),
            "results": {peer: {what: asdict(it) for what, it in said.items()} for peer, said in told.items()},
            "ratios_of_crfs": ratios,
        }
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


def machine() -> dict[str, object]:
    """What the numbers were taken on."""
    model = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory * 1024,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
    }


def versions() -> dict[str, str]:
    """What was measured: the commit, and what the programs say of themselves."""
    commit = _said("git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    said = {name: _said("dpkg-query", "-W", "-f", "${Version}", name) for name in _PACKAGES}
    return {
        "commit": commit,
        "python": sys.version.split()[0],
        "crfs": _said(crfs_program(), "--version"),
        **said,
    }


def _said(*argv: str) -> str:
    try:
        return run(*argv).strip().split("\n")[0]
    except (OSError, CommandFailed):
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()
