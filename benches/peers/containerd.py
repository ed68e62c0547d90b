"""containerd, by ctr: pulled and unpacked by its overlayfs snapshotter, or mounted by stargz-snapshotter."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benches import images
from benches.commands import CommandFailed, run
from benches.containerd import containerd, spawned
from benches.mountinfo import mount_type
from benches.mounts import Mount, WrongMount
from benches.peers.peer import needed, version_of
from benches.place import Place, Source

_STARGZ = "containerd-stargz-grpc"
# stargz-snapshotter's docs/overview.md: a registry that is asked in plain HTTP
_STARGZ_CONFIG = """\
[[resolver.host."{host}".mirrors]]
host = "{host}"
insecure = true
"""
_PROXY = """\
[proxy_plugins.stargz]
type = "snapshot"
address = "{socket}"
"""


@dataclass(frozen=True, slots=True)
class Containerd:
    """With one of its snapshotters."""

    name: str
    snapshotter: str = "overlayfs"
    tag: str = "plain"

    def version(self) -> str:
        said = version_of("containerd")
        if self.snapshotter == "stargz":
            return f"{said}, {_STARGZ} {version_of(_STARGZ)}, {needed('ctr-remote')}"
        return said

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, self.tag)

    @contextmanager
    def store(self, place: Place) -> Iterator[ContainerdStore]:
        with ExitStack() as stack:
            plugin = stack.enter_context(_stargz(place)) if self.snapshotter == "stargz" else ""
            daemon = stack.enter_context(containerd(place.directory, plugin))
            yield ContainerdStore(self, place, daemon.socket)


@dataclass(frozen=True, slots=True)
class ContainerdStore:
    """A containerd with root and state of its own. An image is pulled once, whoever asks at the same time."""

    peer: Containerd
    place: Place
    socket: Path
    pulling: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def mounted(self, image: str, at: Path) -> Iterator[Mount]:
        """A view of the image's snapshot, mounted by ctr."""
        ref = self.place.ref(image, self.peer.tag)
        chosen = ("--snapshotter", self.peer.snapshotter)
        at.mkdir(parents=True, exist_ok=True)
        self._pull(ref)
        self._ctr("images", "mount", *chosen, ref, str(at))
        try:
            if mount_type(at) != "overlay":
                raise WrongMount(f"{at} is {mount_type(at)}, not overlay")
            yield Mount(at, "overlay")
        finally:
            self._ctr("images", "unmount", "--rm", *chosen, str(at))

    def _pull(self, ref: str) -> None:
        scheme = "--plain-http" if self.place.source.plain_http else "--skip-verify"
        with self.pulling:
            if ref in self._ctr("images", "ls", "-q").split():
                return
            if self.peer.snapshotter == "stargz":
                run("ctr-remote", "-a", self.socket, "images", "rpull", scheme, ref)
            else:
                self._ctr("images", "pull", scheme, ref)

    def _ctr(self, *words: str) -> str:
        return run("ctr", "-a", self.socket, *words)


@contextmanager
def _stargz(place: Place) -> Iterator[str]:
    """Run stargz-snapshotter until the block ends; the lines of containerd's config that tell of it."""
    root = place.directory / "stargz"
    root.mkdir()
    config, socket = root / "config.toml", root / "sock"
    config.write_text(_STARGZ_CONFIG.format(host=place.link.host))
    argv = [needed(_STARGZ), "--address", str(socket), "--config", str(config), "--root", str(root / "root")]
    with spawned(argv, root / "log") as process:
        _await_socket(socket, process)
        yield _PROXY.format(socket=socket)


def _await_socket(socket: Path, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.1)):
        if socket.exists():
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        raise CommandFailed(f"{_STARGZ} ended with code {process.returncode}")
    raise CommandFailed(f"{_STARGZ} made no socket within {seconds} s")


CONTAINERD = Containerd("containerd")
CONTAINERD_STARGZ = Containerd("containerd + stargz-snapshotter", "stargz", images.ESTARGZ)
