"""A full pull without a daemon: skopeo copies the image, umoci unpacks it into a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.commands import run
from benches.mounts import Mount, directory
from benches.peers.peer import version_of
from benches.place import Place, Source

_TAG = "plain"


@dataclass(frozen=True, slots=True)
class SkopeoUmoci:
    """Nothing is mounted: the tree is a directory of the disk."""

    name: str = "skopeo + umoci"

    def version(self) -> str:
        return f"{version_of('skopeo')}, {version_of('umoci')}"

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, _TAG)

    @contextmanager
    def store(self, place: Place) -> Iterator[BundleStore]:
        yield BundleStore(place)


@dataclass(frozen=True, slots=True)
class BundleStore:
    """An OCI layout, and a directory with each image unpacked."""

    place: Place

    def mounted(self, image: str, at: Path) -> AbstractContextManager[Mount]:
        bundle = self.place.directory / "bundles" / image
        if not bundle.exists():
            layout = f"{self.place.directory / 'layout'}:{image}"
            source = f"docker://{self.place.ref(image, _TAG)}"
            run("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{layout}")
            bundle.parent.mkdir(exist_ok=True)
            run("umoci", "unpack", "--image", layout, bundle)
        return directory(bundle / "rootfs")


SKOPEO_UMOCI = SkopeoUmoci()
