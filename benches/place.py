"""Where a peer is asked: a source of images, a link to it, and a directory that is empty at first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benches import images, mounts
from benches.cache import remove_tree
from benches.commands import CommandFailed, run
from benches.link import Link
from benches.processes import descendants, end_new
from benches.registry import Registry, registry


@dataclass(frozen=True, slots=True)
class Source:
    """A registry that has, or is given, the benches' images.

    Images are built in `own`, a docker-registry of ours. Where a user named another one, they are copied
    there, below `prefix`, and read from there.
    """

    own: Registry
    host: str
    port: int
    prefix: str = ""
    plain_http: bool = True

    @property
    def is_own(self) -> bool:
        return self.plain_http and (self.host, self.port) == ("127.0.0.1", self.own.port)

    def have(self, image: str, tag: str) -> None:
        """Push the image under a tag, unless it is there."""
        ref = images.pushed(image, self.own, tag)
        if not self.is_own:
            _copy(ref, f"{self.host}:{self.port}/{self.name(image)}:{tag}", verify=not self.plain_http)

    def name(self, image: str) -> str:
        """The image's repository."""
        return self.prefix + images.repository(image)


@dataclass(frozen=True, slots=True)
class Place:
    """One peer's, for one run."""

    source: Source
    link: Link
    directory: Path
    before: frozenset[int] = frozenset()

    def processes(self) -> list[int]:
        """What runs now and did not before."""
        return sorted(descendants() - self.before)

    def beside(self, name: str) -> Place:
        """Another place of the same run, with a directory of its own."""
        directory = self.directory / name
        directory.mkdir()
        return Place(self.source, self.link, directory, self.before)

    def ref(self, image: str, tag: str) -> str:
        """What a peer is told to pull: HOST:PORT/REPOSITORY:TAG, through the link."""
        return f"{self.link.host}/{self.source.name(image)}:{tag}"


@contextmanager
def source(url: str | None) -> Iterator[Source]:
    """The registry at a URL, or one of our own, until the block ends."""
    with registry() as own:
        if url is None:
            yield Source(own, "127.0.0.1", own.port)
        else:
            yield _elsewhere(url, own)


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory. After the block no mount below it is left, and no process that began in the block.

    It's in /var/tmp, which is a disk's, and short enough for podman and for sockets. Programs put what is temporary
    into it as well: one that is killed in the midst of a pull leaves that.
    """
    before = descendants()
    path = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    temporary = path / "tmp"
    temporary.mkdir()
    usual = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(temporary)
    try:
        yield path
    finally:
        if usual is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = usual
        end_new(before)
        mounts.sweep()
        remove_tree(path)


def _elsewhere(url: str, own: Registry) -> Source:
    """Raises ValueError where it's no URL of a registry."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not http://HOST[:PORT][/PREFIX], or https")
    plain = parts.scheme == "http"
    prefix = f"{parts.path.strip('/')}/".lstrip("/")
    return Source(own, parts.hostname, parts.port or (80 if plain else 443), prefix, plain)


def _copy(ref: str, target: str, *, verify: bool) -> None:
    tls = f"--dest-tls-verify={str(verify).lower()}"
    try:
        run("skopeo", "inspect", "--raw", f"--tls-verify={str(verify).lower()}", f"docker://{target}")
    except CommandFailed:
        run("skopeo", "copy", "-q", "--src-tls-verify=false", tls, f"docker://{ref}", f"docker://{target}")
