"""How fast is a large file read, from its start to its end and here and there?

256 MB by a `cat`: of a new mount (first), with the kernel's caches dropped (cached: crfs has the file in its
disk cache), and from the page cache (paged). Then 4 KiB at 2,000 random places, in the same three states,
the first of them in a mount and store of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

from benches.link import LOOPBACK
from benches.mounts import Mount, drop_caches
from benches.peers.archives import RATARMOUNT, SQUASHFUSE
from benches.peers.containerd import CONTAINERD_STARGZ
from benches.peers.crfs import CRFS, CRFS_FUSE, CRFS_OVERLAY, CRFS_STARGZ, CRFS_ZSTD
from benches.peers.peer import Mounter, Peer
from benches.peers.unpacked import EXT4, FUSE_OVERLAYFS, OVERLAYFS
from benches.programs import timed
from benches.question import Asking, Case, Unmeasured, Wanted
from benches.recipes.bigfile import BIG_NAME, BIG_SIZE

PEERS = (CRFS, FUSE_OVERLAYFS, OVERLAYFS, EXT4, RATARMOUNT)
MORE = (SQUASHFUSE, CRFS_FUSE, CRFS_OVERLAY, CRFS_STARGZ, CRFS_ZSTD, CONTAINERD_STARGZ)

_IMAGE = "bigfile"
_READS = 2000
_RANDOM = f"""
import hashlib, os, random, sys, time
places = random.Random(1)
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size // 4096
digest = hashlib.sha256()
begun = time.perf_counter()
for _ in range({_READS}):
    digest.update(os.pread(fd, 4096, places.randrange(size) * 4096))
print(time.perf_counter() - begun, digest.hexdigest())
"""


def cases(wanted: Wanted) -> Sequence[Case]:
    """One image, one file."""
    return [Case(_IMAGE, (_IMAGE,), wanted.shape or LOOPBACK)]


def ask(asking: Asking) -> str:
    """Time one peer's reads; the digests of what it gives."""
    peer, place = cast(Mounter, asking.peer), asking.place
    with peer.store(place) as store, store.mounted(_IMAGE, place.directory / "whole") as mount:
        place.link.take()
        for state in ("first", "cached", "paged"):
            asking.add(**{f"{state}_MBps": _cat(mount, state)})
            if state == "first":
                must_fetch(peer, place.link.take().bytes_down, BIG_SIZE // 10)
        said = timed("sha256sum", mount.path / BIG_NAME)[1].split()[0]
    other = place.beside("other")
    with peer.store(other) as store, store.mounted(_IMAGE, other.directory / "tree") as mount:
        for state in ("first", "cached", "paged"):
            seconds, digest = _read_randomly(mount, state)
            asking.add(**{f"{state}_4k_us": seconds / _READS * 1e6})
    return f"{said} {digest}"


def must_fetch(peer: Peer, fetched: int, least: int) -> None:
    """Raises Unmeasured where crfs read from the registry less than a first read has to."""
    if peer.name.startswith("crfs") and fetched < least:
        raise Unmeasured(f"only {fetched} bytes were fetched: the first read wasn't the first")


def _cat(mount: Mount, state: str) -> float:
    """Read the file; millions of bytes a second."""
    if state != "paged":
        drop_caches()
    seconds, _ = timed("sh", "-c", f"cat '{mount.path / BIG_NAME}' > /dev/null")
    return BIG_SIZE / seconds / 1e6


def _read_randomly(mount: Mount, state: str) -> tuple[float, str]:
    if state != "paged":
        drop_caches()
    _, said = timed(sys.executable, "-S", "-c", _RANDOM, mount.path / BIG_NAME)
    seconds, digest = said.split()
    return float(seconds), digest
