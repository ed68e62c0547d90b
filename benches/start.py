"""How long until an image is of use: until its root is listed, and until a program of it has started?

crfs mounts an image that was never here (cold), through a link to a registry that counts requests and bytes.
Timed are the command line until `ls MNT` has answered, then a python3 that imports json, ssl, sqlite3 and
numpy, in a chroot of the read-only mount. Then the same again (warm), with the kernel's caches dropped
(dropped), and from a new mount with the disk cache kept (again). ext4 is the same tree as umoci unpacked it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from benches import report
from benches.images import oracle
from benches.link import Counts
from benches.mounts import Mount, directory, drop_caches
from benches.setting import Setting, setting, timed
from benches.stats import Samples

PEERS = ("crfs", "ext4")

_IMAGE = "pyapp"
_PROGRAM = "import json, ssl, sqlite3, numpy; print(numpy.__version__)"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask the question and answer it."""
    parser = report.parser("start", __doc__)
    parser.add_argument("--round-trip", type=float, default=0.0, metavar="S", help="make the link long")
    parser.add_argument("--rate", type=float, default=0.0, metavar="BYTES/S", help="make the link thin")
    options = report.parse(parser, PEERS, argv)
    samples = Samples()
    with setting(_IMAGE, options.tag, round_trip=options.round_trip, rate=options.rate) as place:
        for turn in range(options.runs):
            for peer in report.rotated(options.peers, turn):
                if peer == "crfs":
                    ask_crfs(place, options.tag, samples)
                else:
                    ask_ext4(samples)
    report.answer(options, __doc__ or "", samples)


def ask_crfs(place: Setting, tag: str, samples: Samples) -> None:
    """One cold start and what follows it."""
    begun = time.perf_counter()
    with place.crfs(_IMAGE, tag) as mount:
        timed("ls", mount.path)
        listed = time.perf_counter() - begun
        _count(samples, "cold_ls", must_be_cold(place.link.take()))
        imported = import_numpy(mount)
        _count(samples, "cold_import", place.link.take())
        samples.add("crfs", cold_ls_s=listed, cold_import_s=imported, cold_total_s=listed + imported)
        samples.add("crfs", warm_import_s=import_numpy(mount))
        drop_caches()
        samples.add("crfs", dropped_import_s=import_numpy(mount))
    begun = time.perf_counter()
    with place.crfs(_IMAGE, tag, keep_cache=True) as mount:
        timed("ls", mount.path)
        listed = time.perf_counter() - begun
        samples.add("crfs", again_ls_s=listed, again_import_s=import_numpy(mount))
        samples.add("crfs", again_bytes=place.link.take().bytes_down)


def ask_ext4(samples: Samples) -> None:
    """The same program in the unpacked tree; `dropped` is what an installed image's first start is."""
    with directory(oracle(_IMAGE)) as mount:
        drop_caches()
        samples.add("ext4", dropped_import_s=import_numpy(mount))
        samples.add("ext4", warm_import_s=import_numpy(mount))


def import_numpy(mount: Mount) -> float:
    """Seconds of the program in a chroot, which must have said numpy's version."""
    argv = ("chroot", mount.path, "/usr/bin/env", "-i", "/usr/bin/python3", "-B", "-c", _PROGRAM)
    seconds, said = timed(*argv, output=True)
    if said.count(".") != 2:
        raise ValueError(f"python3 said {said!r}, not numpy's version")
    return seconds


def must_be_cold(counts: Counts) -> Counts:
    """Raises ValueError where a first mount fetched nothing: then something of the image was here before."""
    if not counts.bytes_down:
        raise ValueError("nothing crossed the link, so the mount wasn't cold")
    return counts


def _count(samples: Samples, what: str, counts: Counts) -> None:
    samples.add("crfs", **{f"{what}_requests": len(counts.requests), f"{what}_bytes": counts.bytes_down})


if __name__ == "__main__":
    main()
