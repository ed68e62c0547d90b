"""What can a registry give to those who read ranges?

Ranges of 4 KiB, 64 KiB and 1 MiB at random places of one blob of 90 MB, from 1, 8 and 32 connections: half,
nine tenths and 99 in 100 of all answers came within so long, and so many MB/s came in all. The client is one
Python process on the same machine, which is often what is slower: compare registries by it, on one machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benches.commands import CommandFailed, run
from benches.containerd import spawned
from benches.mounts import crfs_program
from benches.peers.peer import NotHere, package_version, version_of
from benches.place import Place, Source
from benches.programs import timed
from benches.question import Asking, Case, Wanted
from benches.registry import free_port

_IMAGE, _TAG = "bigfile", "plain"
_SIZES = {"4k": 4096, "64k": 65536, "1M": 1 << 20}
_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Served:
    """docker-registry, or the one that a user named."""

    name: str
    own: bool

    def version(self) -> str:
        return package_version("docker-registry", "docker-registry") if self.own else "not asked"

    def prepare(self, image: str, source: Source) -> None:
        """Raises NotHere where there is no registry but ours."""
        if not self.own and source.is_own:
            raise NotHere("no --registry was given")
        source.have(image, _TAG)

    @contextmanager
    def open(self, place: Place) -> Iterator[str]:
        """The URL of the repository."""
        source = place.source
        if self.own:
            yield f"http://{source.own.host}/v2/{_repository(source)}"
        else:
            scheme = "http" if source.plain_http else "https"
            yield f"{scheme}://{source.host}:{source.port}/v2/{source.name(_IMAGE)}"


@dataclass(frozen=True, slots=True)
class CrfsRegistry:
    """The small registry that comes with crfs."""

    name: str = "crfs"

    def version(self) -> str:
        return f"{version_of(crfs_program())}, python -m crfs.registry"

    def prepare(self, image: str, source: Source) -> None:
        source.have(image, _TAG)

    @contextmanager
    def open(self, place: Place) -> Iterator[str]:
        """Run it with a copy of the image until the block ends."""
        address = f"127.0.0.1:{free_port()}"
        argv = [sys.executable, "-m", "crfs.registry", "--listen", address]
        argv += ["--root", str(place.directory / "registry")]
        with spawned(argv, place.directory / "log") as process:
            name = _repository(place.source)
            _await_answer(address, process)
            tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
            source = f"docker://{place.source.own.host}/{name}:{_TAG}"
            run("skopeo", "copy", "-q", *tls, source, f"docker://{address}/{name}:{_TAG}")
            yield f"http://{address}/v2/{name}"


PEERS = (CrfsRegistry(), Served("docker-registry", own=True), Served("yours", own=False))


def cases(_wanted: Wanted) -> Sequence[Case]:
    """By the number of connections."""
    return [Case(f"{count} at once", (_IMAGE,), count=count) for count in (1, 8, 32)]


def ask(asking: Asking) -> str:
    """All sizes; the blob that was asked for, and what some ranges of it held."""
    peer = cast(Served | CrfsRegistry, asking.peer)
    root = Path(__file__).resolve().parents[2]
    with peer.open(asking.place) as url:
        digest, size = _largest_layer(url)
        seen = [digest]
        for name, wanted in _SIZES.items():
            words = (f"{url}/blobs/{digest}", size, wanted, asking.case.count, _SECONDS)
            client = ("env", f"PYTHONPATH={root}", sys.executable, "-m", "benches.load", *map(str, words))
            _, said = timed(*client)
            told = json.loads(said)
            asking.add(**{f"{name}_{measure}": value for measure, value in told["measures"].items()})
            seen.append(told["digest"])
    return " ".join(seen)


def _repository(source: Source) -> str:
    return source.name(_IMAGE).removeprefix(source.prefix)


def _largest_layer(url: str) -> tuple[str, int]:
    accept = "application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(f"{url}/manifests/{_TAG}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        layers = json.load(answer)["layers"]
    largest = max(layers, key=lambda layer: int(layer["size"]))
    return str(largest["digest"]), int(largest["size"])


def _await_answer(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://{address}/v2/", timeout=5).close()
            return
        except OSError:
            try:
                code = process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            raise CommandFailed(f"crfs.registry ended with code {code}") from None
    raise CommandFailed("crfs.registry did not answer")
