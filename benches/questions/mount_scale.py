"""What does a mount cost by the number of an image's entries?

Seconds until the root of the tree is listed: of a new image (first), and of one that was mounted and unmounted
before, with the kernel's caches dropped (again). Then what the processes that serve it weigh. The image has to
be pulled or packed first for all but crfs, and that is not counted. `crfs` is the only mount of its machine each
time; `crfs + warm process` finds one that serves another image's mount, as a second mount does, and weighs both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from benches.link import LOOPBACK
from benches.mounts import drop_caches
from benches.peers.archives import RATARMOUNT, SQUASHFUSE
from benches.peers.crfs import CRFS, CRFS_FUSE, CRFS_WARM
from benches.peers.peer import Mounter, Store
from benches.peers.unpacked import FUSE_OVERLAYFS, OVERLAYFS
from benches.processes import weigh
from benches.programs import timed
from benches.question import Asking, Case, Wanted

PEERS = (CRFS, CRFS_WARM, FUSE_OVERLAYFS, OVERLAYFS, SQUASHFUSE)
MORE = (CRFS_FUSE, RATARMOUNT)


def cases(wanted: Wanted) -> Sequence[Case]:
    """Images of more and more names."""
    names = ("quirks", "minbase", "pyapp", "many", *(("many-large",) if wanted.large else ()))
    return [Case(name, (name,), wanted.shape or LOOPBACK) for name in names]


def ask(asking: Asking) -> str:
    """Mount twice; the names in the root."""
    peer = cast(Mounter, asking.peer)
    with peer.store(asking.place) as store:
        _mount(asking, store, "first")
        drop_caches()
        return _mount(asking, store, "again")


def _mount(asking: Asking, store: Store, which: str) -> str:
    begun = time.perf_counter()
    with store.mounted(asking.case.images[0], asking.place.directory / "tree") as mount:
        _, said = timed("ls", mount.path)
        asking.add(**{f"{which}_s": time.perf_counter() - begun})
        asking.add(**{f"{which}_pss_bytes": weigh(asking.place.processes())[1]})
    return said
