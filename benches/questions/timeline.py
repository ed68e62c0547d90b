"""Where does the time of one cold start go?

One mount of an image that was never here, over a long and thin link, and a python3 that imports numpy in it:
when each request to the registry began, when its first and its last byte came, and when the program first
read each file. One run, since it's a picture and no measurement: what watches costs a little too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from benches.firstreads import first_reads
from benches.link import WAN, Counts
from benches.peers.crfs import CRFS
from benches.peers.peer import Mounter
from benches.programs import import_numpy
from benches.question import Asking, Case, Wanted
from benches.questions.start import must_be_cold

PEERS = (CRFS,)

MOST_RUNS = 1

_IMAGE = "pyapp"


def cases(wanted: Wanted) -> Sequence[Case]:
    """One image."""
    return [Case(_IMAGE, (_IMAGE,), wanted.shape or WAN)]


def ask(asking: Asking) -> str:
    """Start once and keep what was seen."""
    peer, place = cast(Mounter, asking.peer), asking.place
    with peer.store(place) as store:
        place.link.take()
        begun = time.monotonic()
        with store.mounted(_IMAGE, place.directory / "tree") as mount:
            mounted = time.monotonic() - begun
            with first_reads(mount.path) as reads:
                _, said = import_numpy(mount)
                finished = time.monotonic() - begun
            counts = must_be_cold(place.link.take())
    asking.add(mounted_s=mounted, finished_s=finished, fetched_requests=len(counts.fetches))
    asking.extra["timeline"] = {
        "mounted": mounted,
        "finished": finished,
        "fetches": _fetches(counts, begun),
        "reads": [{"path": path, "at": at - begun} for path, at in reads.items()],
    }
    return said


def _fetches(counts: Counts, begun: float) -> list[dict[str, Any]]:
    """In seconds since the start; a fetch without an answer so far is left out."""
    told = [asdict(fetch) for fetch in counts.fetches if fetch.first]
    for fetch in told:
        for key in ("begun", "first", "last"):
            fetch[key] -= begun
    return told
