"""Convert images in a registry with ctr-remote, inside a containerd of our own that ends afterwards."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches.cache import cache_dir, once, remove_tree
from benches.commands import CommandFailed, find_program, run

_CONFIG = """\
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper",
]
[grpc]
address = "{root}/sock"
[ttrpc]
address = "{root}/ttrpc"
"""

# the Debian release whose ctr-remote is the first to know --estargz-min-chunk-size
_NEWER_SUITE = "trixie"


class ConverterMissing(Exception):
    """No ctr-remote that knows --estargz-min-chunk-size is installed, nor could one be fetched."""


@dataclass(frozen=True, slots=True)
class Containerd:
    """A containerd that listens on a socket of its own."""

    socket: Path

    def fetch(self, ref: str) -> None:
        """Bring an image's blobs into the content store, from plain HTTP, unpacking nothing."""
        run("ctr", "-a", self.socket, "content", "fetch", "--plain-http", ref)

    def convert(self, source: str, target: str, *options: str, program: str = "ctr-remote") -> None:
        """Convert a fetched image and push the result under its name `target`, to plain HTTP."""
        run(program, "-a", self.socket, "images", "convert", *options, source, target)
        self.push(target)

    def push(self, ref: str) -> None:
        """Push an image of the content store to plain HTTP."""
        run("ctr", "-a", self.socket, "images", "push", "--plain-http", ref)


@contextmanager
def containerd(below: Path | None = None, config: str = "") -> Iterator[Containerd]:
    """Run a containerd with root, state and sockets in a temporary directory until the block ends.

    The directory is made in `below`, or in the cache; `config` are more lines of containerd's config.
    """
    with tempfile.TemporaryDirectory(prefix="crfs-containerd-", dir=below or cache_dir()) as root:
        file = Path(root, "config.toml")
        file.write_text(_CONFIG.format(root=root) + config)
        with spawned(["containerd", "-c", str(file)], Path(root, "log")) as process:
            _await_answer(Path(root, "sock"), process)
            yield Containerd(Path(root, "sock"))


@contextmanager
def spawned(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, out of the terminal's reach: its end is the block's business."""
    with open(log, "wb") as said:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def newer_converter() -> str:
    """A ctr-remote that knows --estargz-min-chunk-size and external TOCs: the installed one, else the next release's.

    Raises ConverterMissing where neither can be had.
    """
    installed = find_program("ctr-remote")
    if installed and "--estargz-min-chunk-size" in run(installed, "images", "convert", "--help"):
        return installed
    try:
        package = once(cache_dir() / f"stargz-snapshotter-{_NEWER_SUITE}", _unpack_newer)
    except CommandFailed as error:
        raise ConverterMissing(f"no ctr-remote that knows --estargz-min-chunk-size: {error}") from error
    return str(package / "usr/bin/ctr-remote")


def _unpack_newer(into: Path) -> None:
    """Unpack the newer release's package, fetched by apt from the archive this machine already uses."""
    apt = into / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    sources = apt / "sources.list"
    sources.write_text(f"deb {_archive()} {_NEWER_SUITE} main\n")
    options = [f"Dir::State={apt}/state", f"Dir::Cache={apt}/cache", f"Dir::Etc::SourceList={sources}"]
    options += ["Dir::Etc::SourceParts=/dev/null", "APT::Sandbox::User=root"]
    flags = [word for option in options for word in ("-o", option)]
    run("apt-get", *flags, "update")
    run("apt-get", *flags, "download", "stargz-snapshotter", cwd=apt)
    run("dpkg", "-x", next(apt.glob("*.deb")), into)
    remove_tree(apt)


def _archive() -> str:
    sites = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian")
    if not sites.split():
        raise CommandFailed("apt knows no Debian archive")
    return sites.split()[0]


def _await_answer(socket: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            run("ctr", "-a", socket, "version")
            return
        except CommandFailed:
            time.sleep(0.2)
    raise CommandFailed(f"containerd did not answer (code {process.poll()})")
