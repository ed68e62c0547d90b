"""How long does a walk over all of an image's names take?

`find -printf` of every name's type and size, with the kernel's caches dropped (cold), then `ls -lR` with them
warm. Asked in turn: crfs, the kernel's overlayfs and fuse-overlayfs over the unpacked layers, and ext4.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from benches import mounts, report
from benches.images import lower_dirs, oracle
from benches.setting import Setting, setting, timed
from benches.stats import Samples

PEERS = ("crfs", "ext4", "overlayfs", "fuse-overlayfs")

_IMAGE = "pyapp"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the question and answer it."""
    options = report.parse(report.parser("walk", __doc__), PEERS, argv)
    samples = Samples()
    names: dict[str, int] = {}
    with setting(_IMAGE, options.tag) as place:
        for turn in range(options.runs):
            for peer in report.rotated(options.peers, turn):
                with mounted(peer, place, options.tag) as mount:
                    names[peer] = walk(peer, mount, samples)
    if len(set(names.values())) != 1:
        raise ValueError(f"not all peers have the same regular files: {names}")
    report.answer(options, __doc__ or "", samples)


def mounted(peer: str, place: Setting, tag: str) -> AbstractContextManager[mounts.Mount]:
    """The image's tree by one of the peers."""
    at = place.directory / peer
    if peer == "crfs":
        return place.crfs(_IMAGE, tag)
    if peer == "ext4":
        return mounts.directory(oracle(_IMAGE))
    if peer == "overlayfs":
        return mounts.overlay(lower_dirs(_IMAGE), at)
    return mounts.fuse_overlayfs(lower_dirs(_IMAGE), at)


def walk(peer: str, mount: mounts.Mount, samples: Samples) -> int:
    """Time both walks; a number that is the same for the same regular files: of their bytes and names."""
    mounts.drop_caches()
    seconds, said = timed("find", mount.path, "-printf", r"%y %s\n", output=True)
    samples.add(peer, cold_find_s=seconds)
    timed("ls", "-lR", mount.path)
    seconds, _ = timed("ls", "-lR", mount.path)
    samples.add(peer, warm_ls_s=seconds)
    sizes = [int(line[2:]) for line in said.splitlines() if line.startswith("f ")]
    return sum(sizes) * 10**6 + len(said.splitlines())


if __name__ == "__main__":
    main()
