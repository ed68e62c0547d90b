"""How much memory does the process behind a mount hold?

RSS and PSS of a mount's daemons, in sum: once mounted, after a program has started from it (started), after a
walk over all names (walked), after the kernel has dropped its caches (dropped), and, of another mount, after
256 MB have been read (read). The daemons are all processes that run then and did not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from benches.link import LOOPBACK
from benches.mounts import Mount, drop_caches
from benches.peers.archives import RATARMOUNT, SQUASHFUSE
from benches.peers.crfs import CRFS
from benches.peers.peer import Mounter
from benches.peers.unpacked import FUSE_OVERLAYFS
from benches.processes import weigh
from benches.programs import import_numpy, timed
from benches.question import Asking, Case, Unmeasured, Wanted
from benches.recipes.bigfile import BIG_NAME

PEERS = (CRFS, FUSE_OVERLAYFS, SQUASHFUSE, RATARMOUNT)

Step = Callable[[Mount], str]


def cases(wanted: Wanted) -> Sequence[Case]:
    """One: an image of many files, and one of a large file."""
    return [Case("pyapp and bigfile", ("pyapp", "bigfile"), wanted.shape or LOOPBACK)]


def ask(asking: Asking) -> str:
    """Weigh one peer's daemons after each thing they are made to do; what the programs said."""
    steps: dict[str, Step] = {
        "mounted": lambda mount: timed("ls", mount.path)[1],
        "started": lambda mount: import_numpy(mount)[1],
        "walked": _walk,
        "dropped": _drop,
    }
    said = _weigh_each(asking, "pyapp", steps)
    return said + _weigh_each(asking, "bigfile", {"read": _read})


def _walk(mount: Mount) -> str:
    """The number of lines is the same for all; directories' sizes are not."""
    return str(timed("ls", "-lR", mount.path)[1].count("\n"))


def _read(mount: Mount) -> str:
    return timed("env", "-C", mount.path, "cksum", BIG_NAME)[1]


def _drop(_mount: Mount) -> str:
    drop_caches()
    return ""


def _weigh_each(asking: Asking, image: str, steps: dict[str, Step]) -> str:
    said = ""
    peer, place = cast(Mounter, asking.peer), asking.place
    with peer.store(place) as store, store.mounted(image, place.directory / image) as mount:
        for name, step in steps.items():
            said += step(mount)
            pids = place.processes()
            if not pids:
                raise Unmeasured(f"no process serves {mount.path}")
            rss, pss = weigh(pids)
            asking.add(**{f"{name}_rss_bytes": rss, f"{name}_pss_bytes": pss})
    return said
