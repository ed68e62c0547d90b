"""How much memory does the process behind a mount hold?

RSS and PSS of a mount's daemons, in sum: once mounted, after a program has started from it (started), after a
walk over all names (walked), after the kernel has dropped its caches (dropped), and, of another mount, after
256 MB have been read (read). The daemons are the processes with the mount point on their command line.
fuse-overlayfs is asked the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from benches import mounts, report
from benches.images import lower_dirs, pushed
from benches.read import cat
from benches.setting import Setting, setting, timed
from benches.start import import_numpy
from benches.stats import Samples

PEERS = ("crfs", "fuse-overlayfs")

_IMAGE = "pyapp"
_BIG_IMAGE = "bigfile"

Step = Callable[[mounts.Mount], object]


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the question and answer it."""
    options = report.parse(report.parser("memory", __doc__), PEERS, argv)
    samples = Samples()
    with setting(_IMAGE, options.tag) as place:
        pushed(_BIG_IMAGE, place.registry, options.tag)
        for turn in range(options.runs):
            for peer in report.rotated(options.peers, turn):
                ask(peer, place, options.tag, samples)
    report.answer(options, __doc__ or "", samples)


def ask(peer: str, place: Setting, tag: str, samples: Samples) -> None:
    """Weigh one peer's daemons after each thing they are made to do."""
    steps: dict[str, Step] = {"mounted": list_root, "started": import_numpy, "walked": walk, "dropped": drop}
    with mounted(_IMAGE, peer, place, tag) as mount:
        _weigh_each(peer, mount, steps, samples)
    with mounted(_BIG_IMAGE, peer, place, tag) as mount:
        _weigh_each(peer, mount, {"read": cat}, samples)


def mounted(image: str, peer: str, place: Setting, tag: str) -> AbstractContextManager[mounts.Mount]:
    """The image's tree by one of the peers."""
    if peer == "crfs":
        return place.crfs(image, tag)
    return mounts.fuse_overlayfs(lower_dirs(image), place.directory / peer)


def list_root(mount: mounts.Mount) -> None:
    """List the root of the tree."""
    timed("ls", mount.path)


def walk(mount: mounts.Mount) -> None:
    """Look at every name of the tree."""
    timed("ls", "-lR", mount.path)


def drop(mount: mounts.Mount) -> None:
    """Let the kernel forget, which tells a daemon what it need not remember."""
    mounts.drop_caches()


def weigh(mount: mounts.Mount) -> tuple[int, int]:
    """RSS and PSS in bytes, of all the mount's daemons. Raises ProcessLookupError where there is none."""
    pids = mounts.daemons(mount.path)
    if not pids:
        raise ProcessLookupError(f"no process has {mount.path} on its command line")
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(_field(text, "Rss") for text in rollups), sum(_field(text, "Pss") for text in rollups)


def _weigh_each(peer: str, mount: mounts.Mount, steps: dict[str, Step], samples: Samples) -> None:
    for name, step in steps.items():
        step(mount)
        rss, pss = weigh(mount)
        samples.add(peer, **{f"{name}_rss_bytes": rss, f"{name}_pss_bytes": pss})


def _field(rollup: str, name: str) -> int:
    line = next(line for line in rollup.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
