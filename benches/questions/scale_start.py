"""How long until the last of many is of use, when they are started at once?

10 and 50 mounts of the same image, and one of each of 10 images that share a layer, begun at the same moment
with an empty store. Each is of use when 100 of its files have been read. Then what all processes that serve
them weigh (PSS), and how many bytes came from the registry. crfs begins with no process, and its mounts then share
what they share for a user.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import cast

from benches.link import LOOPBACK
from benches.peers.containerd import CONTAINERD, CONTAINERD_STARGZ
from benches.peers.crfs import CRFS_TOGETHER, CRFS_WARM
from benches.peers.peer import Mounter, Store
from benches.peers.podman import PODMAN, PODMAN_FUSE
from benches.processes import weigh
from benches.programs import timed
from benches.question import Asking, Case, Unmeasured, Wanted
from benches.questions.start import must_be_cold
from benches.recipes import fleet

PEERS = (CRFS_TOGETHER, CONTAINERD, CONTAINERD_STARGZ)
MORE = (CRFS_WARM, PODMAN, PODMAN_FUSE)

_IMAGES = tuple(f"fleet-{number}" for number in range(fleet.COUNT))
_READ = "cat runtime/0000*.py service/*00*.py | sha256sum"


def cases(wanted: Wanted) -> Sequence[Case]:
    """The same image often, and many images."""
    shape = wanted.shape or LOOPBACK
    same = [Case(f"{count} of one image", _IMAGES[:1], shape, count) for count in (10, 50)]
    return [*same, Case("10 images", _IMAGES, shape, len(_IMAGES))]


def ask(asking: Asking) -> str:
    """Start all at once; what each has read, in the order of the images."""
    peer, place, case = cast(Mounter, asking.peer), asking.place, asking.case
    wanted = [case.images[number % len(case.images)] for number in range(case.count)]
    with peer.store(place) as store, ThreadPoolExecutor(len(wanted)) as threads:
        idle = weigh(place.processes())[1]
        place.link.take()
        begun = time.perf_counter()
        started = [threads.submit(_start, asking, store, *item) for item in enumerate(wanted)]
        try:
            said = [future.result()[1] for future in started]
            asking.add(last_s=time.perf_counter() - begun)
            asking.add(fetched_bytes=must_be_cold(place.link.take()).bytes_down)
            asking.add(serving_pss_bytes=weigh(place.processes())[1], idle_pss_bytes=idle)
        finally:
            # whoever failed, all others are unmounted
            list(threads.map(_stop, started))
    if len(set(said)) != len(case.images):
        raise Unmeasured(f"{len(set(said))} different contents of {len(case.images)} images")
    return " ".join(said)


def _start(asking: Asking, store: Store, number: int, image: str) -> tuple[ExitStack, str]:
    """Mount and read one of them; what unmounts it, and what it has read."""
    with ExitStack() as stack:
        mount = stack.enter_context(store.mounted(image, asking.place.directory / f"tree-{number}"))
        _, said = timed("env", "-C", mount.path, "sh", "-c", _READ)
        return stack.pop_all(), said.split()[0]


def _stop(started: Future[tuple[ExitStack, str]]) -> None:
    if started.exception() is None:
        started.result()[0].close()
