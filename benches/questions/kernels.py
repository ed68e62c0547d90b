"""How fast are crfs's kernels beside what Python has for the same?

A gzip member of 1 MiB (inflate, against zlib), a name among 100,000 in the index (lookup, against a dict), and
4 KiB of a page in the cache (page, against a dict of bytes). Each in a process of its own, on one core; the
two smaller ones include a Python call, as they do in a mount.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benches.mounts import crfs_program
from benches.peers.peer import version_of
from benches.programs import timed
from benches.question import Asking, Case, Wanted


@dataclass(frozen=True, slots=True)
class Side:
    """crfs's kernels, or Python's."""

    name: str
    argument: str

    def version(self) -> str:
        if self.argument == "crfs":
            return version_of(crfs_program())
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}, Python {sys.version.split()[0]}"


PEERS = (Side("crfs", "crfs"), Side("zlib and dict", "python"))


def cases(_wanted: Wanted) -> Sequence[Case]:
    """One."""
    return [Case("kernels")]


def ask(asking: Asking) -> str:
    """Run one side's; the digest of its results."""
    side = asking.peer
    assert isinstance(side, Side)
    root = Path(__file__).resolve().parents[2]
    _, said = timed("env", f"PYTHONPATH={root}", sys.executable, "-m", "benches.kernels", side.argument)
    told = json.loads(said)
    asking.add(**told["measures"])
    return str(told["digest"])
