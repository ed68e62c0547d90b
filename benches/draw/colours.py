"""One colour for each system, in all plots."""

from __future__ import annotations

import zlib

_COLOURS = {
    "crfs": "#d62728",
    "crfs + warm process": "#ff7f7f",
    "crfs-fuse": "#ff7f0e",
    "crfs-overlay": "#fdbf6f",
    "crfs stargz": "#fb9a99",
    "crfs zstd:chunked": "#e31a8c",
    "crfs plain": "#8c2d04",
    "podman": "#6a3d9a",
    "podman + fuse-overlayfs": "#b294d1",
    "containerd": "#1f78b4",
    "containerd + stargz-snapshotter": "#7fb2d9",
    "skopeo + umoci": "#b15928",
    "fuse-overlayfs": "#33a02c",
    "overlayfs": "#111111",
    "ext4": "#888888",
    "squashfuse": "#e6ab02",
    "ratarmount": "#17becf",
    "ctr-remote": "#1f78b4",
    "ctr-remote zstd:chunked": "#7fb2d9",
    "docker-registry": "#1f78b4",
    "gzip -6": "#888888",
    "zlib and dict": "#888888",
}
_OTHERS = ("#e377c2", "#bcbd22", "#9edae5", "#c49c94")


def colour(peer: str) -> str:
    """The peer's; of one that has none of its own, the same one every time."""
    return _COLOURS.get(peer) or _OTHERS[zlib.crc32(peer.encode()) % len(_OTHERS)]
