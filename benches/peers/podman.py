"""podman: an image is pulled and unpacked whole, then a container's root is mounted from its layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benches.commands import CommandFailed, run
from benches.mountinfo import mount_type
from benches.mounts import Mount, WrongMount
from benches.peers.peer import needed, version_of
from benches.place import Place, Source

_TAG = "plain"


@dataclass(frozen=True, slots=True)
class Podman:
    """With the kernel's overlayfs, or with a `mount_program` whose mounts are of the type `kind`."""

    name: str
    kind: str = "overlay"
    mount_program: str = ""

    def version(self) -> str:
        said = version_of("podman")
        return f"{said}, {version_of(self.mount_program)}" if self.mount_program else said

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, _TAG)

    @contextmanager
    def store(self, place: Place) -> Iterator[PodmanStore]:
        yield PodmanStore(place, self.kind, tuple(self._globals(place.directory / "podman")))

    def _globals(self, root: Path) -> Iterator[str]:
        yield from ("--root", f"{root}/graph", "--runroot", f"{root}/run", "--tmpdir", f"{root}/tmp")
        yield from ("--storage-driver", "overlay")
        if self.mount_program:
            yield from ("--storage-opt", f"overlay.mount_program={needed(self.mount_program)}")


@dataclass(frozen=True, slots=True)
class PodmanStore:
    """A graph root of its own. An image is pulled once, whoever asks for it at the same time."""

    place: Place
    kind: str
    flags: tuple[str, ...]
    pulling: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def mounted(self, image: str, at: Path) -> Iterator[Mount]:
        """The root of a new container, which is where podman wants it."""
        ref = self.place.ref(image, _TAG)
        self._pull(ref)
        self._podman("create", "-q", "--name", at.name, ref, "true")
        try:
            root = Path(self._podman("mount", at.name).strip())
            if mount_type(root) != self.kind:
                raise WrongMount(f"{root} is {mount_type(root)}, not {self.kind}")
            yield Mount(root, self.kind)
        finally:
            self._podman("umount", at.name)
            self._podman("rm", "-f", at.name)

    def _pull(self, ref: str) -> None:
        with self.pulling:
            try:
                self._podman("image", "exists", ref)
            except CommandFailed:
                self._podman("pull", "-q", "--tls-verify=false", ref)

    def _podman(self, *words: str) -> str:
        return run("podman", *self.flags, *words)


PODMAN = Podman("podman")
PODMAN_FUSE = Podman("podman + fuse-overlayfs", "fuse.fuse-overlayfs", "fuse-overlayfs")
