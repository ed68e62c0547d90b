"""How fast is a large file read from its start to its end?

`cat` of a file of 256 MB: from the registry with nothing cached (first), with the disk cache warm and the
kernel's caches dropped (cached), and from the page cache (paged). ext4 has no `first`; fuse-overlayfs lies
over the unpacked layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from benches import mounts, report
from benches.images import lower_dirs, oracle
from benches.recipes.bigfile import BIG_NAME, BIG_SIZE
from benches.setting import Setting, setting, timed
from benches.stats import Samples

PEERS = ("crfs", "ext4", "fuse-overlayfs")

_IMAGE = "bigfile"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the question and answer it."""
    options = report.parse(report.parser("read", __doc__), PEERS, argv)
    samples = Samples()
    digest = sha256(oracle(_IMAGE) / BIG_NAME)
    with setting(_IMAGE, options.tag) as place:
        for turn in range(options.runs):
            for peer in report.rotated(options.peers, turn):
                if ask(peer, place, options.tag, samples) != digest:
                    raise ValueError(f"{peer} gave other bytes than are in the image")
    report.answer(options, __doc__ or "", samples)


def ask(peer: str, place: Setting, tag: str, samples: Samples) -> str:
    """Time one peer's reads; the digest of what it gives."""
    if peer == "crfs":
        with place.crfs(_IMAGE, tag) as mount:
            samples.add(peer, first_MBps=cat(mount), first_bytes=(fetched := place.link.take().bytes_down))
            if fetched < BIG_SIZE // 10:
                raise ValueError(f"only {fetched} bytes were fetched: the first read wasn't the first")
            return _ask_again(peer, mount, samples)
    if peer == "ext4":
        with mounts.directory(oracle(_IMAGE)) as mount:
            return _ask_again(peer, mount, samples)
    with mounts.fuse_overlayfs(lower_dirs(_IMAGE), place.directory / peer) as mount:
        return _ask_again(peer, mount, samples)


def _ask_again(peer: str, mount: mounts.Mount, samples: Samples) -> str:
    mounts.drop_caches()
    samples.add(peer, cached_MBps=cat(mount))
    samples.add(peer, paged_MBps=cat(mount))
    return sha256(mount.path / BIG_NAME)


def cat(mount: mounts.Mount) -> float:
    """Read the file; millions of bytes a second."""
    seconds, _ = timed("cat", mount.path / BIG_NAME)
    return BIG_SIZE / seconds / 1e6


def sha256(path: Path) -> str:
    """The digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
