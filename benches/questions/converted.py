"""What does a start cost, by the way in which the image was written?

The cold start of `start`, by crfs, of the same image as eStargz (`crfs`, and as ctr-remote writes it), stargz,
zstd:chunked and a plain image; and as `crfs convert` writes eStargz with several sizes of chunks, with small files in
members of their own or together until those hold so much (the second size), and with the files that a start had read
in front (traced). `written` is the sum of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from benches import images
from benches.link import LOOPBACK, WAN
from benches.peers.crfs import CRFS, CRFS_PLAIN, CRFS_STARGZ, CRFS_ZSTD, Crfs
from benches.question import Asking, Case, Wanted
from benches.questions.start import first_run

_IMAGE = "pyapp"


def _written(way: str) -> Crfs:
    return Crfs(f"crfs {way}", images.crfs_tag(way))


PEERS = (
    CRFS,
    Crfs("crfs by ctr-remote", "esgz"),
    _written("4M-64K"),
    _written("4M-64K-traced"),
    CRFS_STARGZ,
    CRFS_ZSTD,
    CRFS_PLAIN,
)
MORE = tuple(map(_written, ("256K-64K", "1M-0", "1M-64K", "1M-256K", "zstd:chunked-1M")))


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
