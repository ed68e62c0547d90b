"""How fast is an image written anew, in a format that is read lazily, and how large does it become?

From disk to disk, with the default options but for what a peer's name says: crfs from an OCI layout to another one,
ctr-remote within the content store of a containerd, whose processor seconds and memory count with its own. Told are
bytes of the layers' tars per second, processor seconds, the most memory that was held, and the sum of the layers
that were written. `gzip -6` makes everyone's tar.gz of each tar: what the sizes are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

from benches import images
from benches.peers.converters import (
    CRFS,
    CRFS_LEVELS,
    CRFS_ZSTD,
    CTR_REMOTE,
    CTR_REMOTE_ZSTD,
    GZIP,
    CrfsConverter,
    CtrRemote,
    Gzip,
)
from benches.peers.peer import Peer
from benches.question import Asking, Case, Wanted

PEERS: Sequence[Peer] = (CRFS, CRFS_ZSTD, CTR_REMOTE, GZIP)
MORE: Sequence[Peer] = (CTR_REMOTE_ZSTD, *CRFS_LEVELS)


def cases(wanted: Wanted) -> Sequence[Case]:
    """An image without a link; ctr-remote takes minutes for the larger one."""
    return [Case(name, (name,)) for name in ("minbase", *(("pyapp",) if wanted.large else ()))]


def ask(asking: Asking) -> str:
    """Convert once; how many layers were written."""
    peer = asking.peer
    assert isinstance(peer, CrfsConverter | CtrRemote | Gzip)
    (image,) = asking.case.images
    made = peer.convert(image, asking.place)
    tars = sum(tar.stat().st_size for tar in images.layers(image))
    weight = made.weight
    asking.add(rate_MBps=tars / 1e6 / weight.seconds, time_s=weight.seconds, processor_s=weight.cpu_seconds)
    asking.add(peak_bytes=weight.peak_bytes, written_bytes=sum(made.layers))
    return f"{len(made.layers)} layers"
