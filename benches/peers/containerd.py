"""containerd, by ctr: pulled and unpacked by its overlayfs snapshotter, or mounted by stargz-snapshotter."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benches import images
from benches.commands import CommandFailed, run
from benches.containerd import containerd, spawned
from benches.mountinfo import mount_type
from benches.mounts import Mount, WrongMount, mounted
from benches.peers.peer import needed, version_of
from benches.place import Place, Source

_STARGZ = "containerd-stargz-grpc"
# stargz-snapshotter's docs/overview.md: a registry that is asked in plain HTTP; like crfs, it fetches what is read
_STARGZ_CONFIG = """\
no_background_fetch = true
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
    def store(self, place: Place) -> Iterator[ContainerdStore | StargzStore]:
        if self.snapshotter == "stargz":
            with _stargz(place) as plugin, containerd(place.directory, plugin) as daemon:
                yield StargzStore(self, place, daemon.socket)
        else:
            with containerd(place.directory) as daemon:
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
        at.mkdir(parents=True, exist_ok=True)
        self._pull(ref)
        self._ctr("images", "mount", ref, str(at))
        try:
            if mount_type(at) != "overlay":
                raise WrongMount(f"{at} is {mount_type(at)}, not overlay")
            yield Mount(at, "overlay")
        finally:
            self._ctr("images", "unmount", "--rm", str(at))

    def _pull(self, ref: str) -> None:
        with self.pulling:
            if ref not in self._ctr("images", "ls", "-q").split():
                self._ctr("images", "pull", _scheme(self.place), ref)

    def _ctr(self, *words: str) -> str:
        return run("ctr", "-a", self.socket, *words)


@dataclass(frozen=True, slots=True)
class StargzStore:
    """The same with stargz-snapshotter, which mounts each layer; `tops` are the topmost snapshots of images."""

    peer: Containerd
    place: Place
    socket: Path
    pulling: threading.Lock = field(default_factory=threading.Lock)
    tops: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def mounted(self, image: str, at: Path) -> Iterator[Mount]:
        """A view of the image's snapshot. `ctr images mount` would look for layers in containerd's own store."""
        ref = self.place.ref(image, self.peer.tag)
        # nothing holds the view, which containerd may forget at once: its layers stay for as long as the image does
        argv = self._snapshots("view", "--target", str(at), at.name, self._pull(ref)).split()
        must_be_lazy(argv[-1])
        with mounted(at, "overlay", argv, ["umount", str(at)]) as mount:
            yield mount

    def _pull(self, ref: str) -> str:
        """The image's topmost snapshot."""
        with self.pulling:
            if ref not in self.tops:
                run("ctr-remote", "-a", self.socket, "images", "rpull", _scheme(self.place), ref)
                self.tops[ref] = self._newest_top()
            return self.tops[ref]

    def _newest_top(self) -> str:
        """The snapshot that no other one lies on, and that is not known yet."""
        lines = [line.split() for line in self._snapshots("ls").splitlines()[1:]]
        known = {words[1] for words in lines if len(words) == 3} | set(self.tops.values())
        return next(words[0] for words in lines if words[0].startswith("sha256:") and words[0] not in known)

    def _snapshots(self, *words: str) -> str:
        return run("ctr", "-a", self.socket, "snapshots", "--snapshotter", "stargz", *words)


def _scheme(place: Place) -> str:
    return "--plain-http" if place.source.plain_http else "--skip-verify"


def must_be_lazy(options: str) -> None:
    """Raises WrongMount where a lower directory of overlayfs's options is none that the snapshotter serves."""
    lowers = options.removeprefix("lowerdir=").split(":")
    if plain := [lower for lower in lowers if mount_type(Path(lower)) != "fuse.rawBridge"]:
        raise WrongMount(f"{len(plain)} of {len(lowers)} layers were pulled whole")


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
