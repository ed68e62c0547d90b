"""How long from nothing until a program in an image has finished?

The image was never here: the store is empty and its daemon, if it needs one, idles. Timed are the mount or
pull until there is a tree (pull), then a python3 that imports json, ssl, sqlite3 and numpy in a chroot of it
(run), and both (total); requests and bytes are what crossed the link to the registry by then. Then the
program again (warm), with the kernel's caches dropped (dropped), and from a new mount of the store that has
the image now (again). All peers run the program in the same way, so that no container runtime's cost is
among what is compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from benches.link import LOOPBACK, WAN, Counts
from benches.mounts import Mount, drop_caches
from benches.peers.containerd import CONTAINERD, CONTAINERD_STARGZ
from benches.peers.crfs import (
    CRFS,
    CRFS_FUSE,
    CRFS_OVERLAY,
    CRFS_PLAIN,
    CRFS_STARGZ,
    CRFS_WARM,
    CRFS_ZSTD,
)
from benches.peers.peer import Mounter, Store
from benches.peers.podman import PODMAN, PODMAN_FUSE
from benches.peers.umoci import SKOPEO_UMOCI
from benches.programs import import_numpy
from benches.question import Asking, Case, Unmeasured, Wanted

PEERS = (CRFS, CRFS_WARM, PODMAN, CONTAINERD_STARGZ)
MORE = (CONTAINERD, CRFS_FUSE, CRFS_OVERLAY, CRFS_STARGZ, CRFS_ZSTD, CRFS_PLAIN, SKOPEO_UMOCI, PODMAN_FUSE)

_IMAGE = "pyapp"


def cases(wanted: Wanted) -> Sequence[Case]:
    """The same image over a link of each shape."""
    return [Case(shape.name, (_IMAGE,), shape) for shape in wanted.shapes(LOOPBACK, WAN)]


def ask(asking: Asking) -> str:
    """One cold start and what follows it; what the program said."""
    peer, place = cast(Mounter, asking.peer), asking.place
    with peer.store(place) as store:
        place.link.take()
        said = _cold(asking, store)
        _again(asking, store)
    return said


def must_be_cold(counts: Counts) -> Counts:
    """Raises Unmeasured where a first mount fetched nothing: then something of the image was here before."""
    if not counts.bytes_down:
        raise Unmeasured("nothing crossed the link, so the start wasn't cold")
    return counts


@contextmanager
def first_run(asking: Asking, store: Store) -> Iterator[tuple[Mount, str]]:
    """Mount, run, and tell what that took; the mount and what the program said."""
    begun = time.perf_counter()
    with store.mounted(_IMAGE, asking.place.directory / "first") as mount:
        pulled = time.perf_counter() - begun
        ran, said = import_numpy(mount)
        counts = must_be_cold(asking.place.link.take())
        asking.add(pull_s=pulled, run_s=ran, total_s=pulled + ran)
        asking.add(fetched_requests=len(counts.requests), fetched_bytes=counts.bytes_down)
        yield mount, said


def _cold(asking: Asking, store: Store) -> str:
    with first_run(asking, store) as (mount, said):
        asking.add(warm_s=import_numpy(mount)[0])
        drop_caches()
        asking.add(dropped_s=import_numpy(mount)[0])
    return said


def _again(asking: Asking, store: Store) -> None:
    asking.place.link.take()
    begun = time.perf_counter()
    with store.mounted(_IMAGE, asking.place.directory / "again") as mount:
        import_numpy(mount)
        asking.add(again_s=time.perf_counter() - begun)
        asking.add(again_bytes=asking.place.link.take().bytes_down)
