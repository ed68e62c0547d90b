"""What does a start cost, by the way in which the image was written?

The cold start of `start`, by crfs, of the same image as `crfs convert` writes it with several sizes of chunks, with
small files in members of their own or together until those hold so much (the second size), as zstd:chunked, and with
the files that a start had read in front (traced). `written` is the sum of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from benches import images
from benches.link import LOOPBACK, WAN
from benches.peers.crfs import Crfs
from benches.question import Asking, Case, Wanted
from benches.questions.start import first_run

_IMAGE = "pyapp"
_SIZES = ("256K-64K", "1M-0", "1M-64K", "1M-256K", "4M-0", "4M-64K")
_WAYS = (*_SIZES, "4M-64K-traced", "zstd:chunked", "zstd:chunked-1M")

PEERS = tuple(Crfs(f"crfs {way}", images.crfs_tag(way)) for way in _WAYS)


def cases(wanted: Wanted) -> Sequence[Case]:
    """The same image over a link of each shape."""
    return [Case(shape.name, (_IMAGE,), shape) for shape in wanted.shapes(LOOPBACK, WAN)]


def ask(asking: Asking) -> str:
    """One cold start; what the program said."""
    peer, place = cast(Crfs, asking.peer), asking.place
    with peer.store(place) as store:
        place.link.take()
        with first_run(asking, store) as (_, said):
            pass
    asking.add(written_bytes=images.pushed_bytes(_IMAGE, place.source.own, peer.tag))
    return said
