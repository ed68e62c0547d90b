"""How long does a walk over all of an image's names take?

`find` of every name's type and size, with the kernel's caches dropped (cold), then `ls -lR` (warm). crfs and
stargz-snapshotter mount from the registry; the others have the image unpacked or packed into their own format before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from benches.link import LOOPBACK
from benches.mounts import drop_caches
from benches.peers.archives import RATARMOUNT, SQUASHFUSE
from benches.peers.containerd import CONTAINERD_STARGZ
from benches.peers.crfs import CRFS, CRFS_FUSE, CRFS_OVERLAY
from benches.peers.peer import Mounter
from benches.peers.unpacked import EXT4, FUSE_OVERLAYFS, OVERLAYFS
from benches.programs import timed
from benches.question import Asking, Case, Wanted

PEERS = (CRFS, CONTAINERD_STARGZ, FUSE_OVERLAYFS, OVERLAYFS, EXT4)
MORE = (CRFS_FUSE, CRFS_OVERLAY, SQUASHFUSE, RATARMOUNT)


def cases(wanted: Wanted) -> Sequence[Case]:
    """Images of more and more names."""
    names = ("pyapp", "many", "many-large") if wanted.large else ("pyapp", "many")
    return [Case(name, (name,), wanted.shape or LOOPBACK) for name in names]


def ask(asking: Asking) -> str:
    """Time both walks; a digest of all files' names and sizes."""
    peer, place = cast(Mounter, asking.peer), asking.place
    image = asking.case.images[0]
    with peer.store(place) as store, store.mounted(image, place.directory / "tree") as mount:
        drop_caches()
        seconds, said = timed("find", mount.path, "-printf", r"%y %s %P\n")
        asking.add(cold_find_s=seconds)
        seconds, _ = timed("ls", "-lR", mount.path)
        asking.add(warm_ls_s=seconds)
    return digest_of_walk(said)


def digest_of_walk(said: str) -> str:
    """The same for the same names and files' sizes, in any order; other sizes are each system's own."""
    lines = sorted(line if line[0] == "f" else line[0] + line.split(" ", 2)[2] for line in said.splitlines())
    return f"{len(lines)} names, {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"
