"""Who writes an image anew, from what is on this disk to this disk: crfs, and ctr-remote within a containerd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import images, mounts
from benches.commands import run
from benches.containerd import containerd
from benches.mounts import drop_caches
from benches.peers.peer import needed, package_version, version_of
from benches.place import Place, Source
from benches.processes import cpu_seconds, peak_bytes
from benches.programs import Weight, weighed
from benches.question import Unmeasured

_NAME = "converted"
# by which a manifest tells of a layer's table of contents
_TOC_NOTES = {
    "containerd.io/snapshot/stargz/toc.digest",
    "io.containers.zstd-chunked.manifest-checksum",
    "io.github.containers.zstd-chunked.manifest-checksum",
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What it took, and the sizes of the layers that were written."""

    weight: Weight
    layers: list[int]


@dataclass(frozen=True, slots=True)
class CrfsConverter:
    """`crfs convert` from an OCI layout to an OCI layout."""

    name: str
    options: tuple[str, ...] = ()

    def version(self) -> str:
        return version_of(mounts.crfs_program())

    def prepare(self, image: str, source: Source) -> None:
        images.layout(image)

    def convert(self, image: str, place: Place) -> Conversion:
        """Write the image into the place."""
        into = place.directory / "made"
        drop_caches()
        ends = (f"oci:{images.layout(image)}:plain", f"oci:{into}:{_NAME}")
        weight = weighed(mounts.crfs_program(), "convert", *self.options, *ends)
        entry = json.loads((into / "index.json").read_bytes())["manifests"][0]
        return Conversion(weight, layer_sizes(into / "blobs", entry["digest"]))


@dataclass(frozen=True, slots=True)
class CtrRemote:
    """`ctr-remote images convert` within a content store that has the image. containerd's work counts, too."""

    name: str
    options: tuple[str, ...]

    def version(self) -> str:
        return package_version("ctr-remote", "stargz-snapshotter")

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, "plain")

    def convert(self, image: str, place: Place) -> Conversion:
        """Write the image into a content store of its own."""
        with containerd(place.directory) as daemon:
            # straight from the registry: the link is not what is asked about
            ref = images.pushed(image, place.source.own, "plain")
            daemon.fetch(ref)
            drop_caches()
            with _weighing_too(place.processes()) as servers:
                argv = (needed("ctr-remote"), "-a", daemon.socket, "images", "convert")
                weight = weighed(*argv, *self.options, "--oci", ref, _NAME)
            listed = run("ctr", "-a", daemon.socket, "images", "ls", f"name=={_NAME}")
            digest = listed.splitlines()[1].split()[2]
            blobs = daemon.socket.parent / "root/io.containerd.content.v1.content/blobs"
            total = Weight(
                weight.seconds,
                weight.cpu_seconds + servers.cpu_seconds,
                weight.peak_bytes + servers.peak_bytes,
            )
            return Conversion(total, layer_sizes(blobs, digest))


@dataclass(slots=True)
class _Servers:
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def _weighing_too(pids: list[int]) -> Iterator[_Servers]:
    """What servers had to do for the block, known after it."""
    found, before = _Servers(), cpu_seconds(pids)
    yield found
    found.cpu_seconds, found.peak_bytes = cpu_seconds(pids) - before, peak_bytes(pids)


@dataclass(frozen=True, slots=True)
class Gzip:
    """`gzip -6` of each layer's tar: not read lazily by anyone, but what sizes are compared with."""

    name: str = "gzip -6"

    def version(self) -> str:
        return version_of("gzip")

    def prepare(self, image: str, source: Source) -> None:
        images.layers(image)

    def convert(self, image: str, place: Place) -> Conversion:
        """Write the layers into the place, one after the other."""
        drop_caches()
        total, sizes = Weight(0, 0, 0), []
        for number, tar in enumerate(images.layers(image)):
            into = place.directory / f"{number}.gz"
            weight = weighed("gzip", "-6", "-c", tar, into=into)
            sizes.append(into.stat().st_size)
            total = Weight(
                total.seconds + weight.seconds,
                total.cpu_seconds + weight.cpu_seconds,
                max(total.peak_bytes, weight.peak_bytes),
            )
        return Conversion(total, sizes)


def layer_sizes(blobs: Path, digest: str) -> list[int]:
    """Of the layers of an image by its manifest's digest. Raises Unmeasured where one can't be read lazily."""
    manifest = json.loads((blobs / digest.replace(":", "/")).read_bytes())
    for layer in manifest["layers"]:
        if not _TOC_NOTES & layer.get("annotations", {}).keys():
            raise Unmeasured(f"{layer['digest']} was written without a table of contents")
        if (blobs / layer["digest"].replace(":", "/")).stat().st_size != layer["size"]:
            raise Unmeasured(f"{layer['digest']} is not of the size that the manifest says")
    return [int(layer["size"]) for layer in manifest["layers"]]


CRFS = CrfsConverter("crfs")
CRFS_LEVELS = tuple(
    CrfsConverter(f"crfs level {level}", ("--compression-level", str(level))) for level in (1, 9, 12)
)
CRFS_ZSTD = CrfsConverter("crfs zstd:chunked", ("--format", "zstd:chunked"))
CTR_REMOTE = CtrRemote("ctr-remote", ("--estargz",))
CTR_REMOTE_ZSTD = CtrRemote("ctr-remote zstd:chunked", ("--zstdchunked",))
GZIP = Gzip()
