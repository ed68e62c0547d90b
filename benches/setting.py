"""Where a bench takes place: a registry behind a counting link, an empty directory, and a clock."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benches import mounts
from benches.cache import cache_dir, remove_tree
from benches.images import pushed, repository
from benches.link import Link, Shape, link
from benches.registry import Registry, registry


@dataclass(frozen=True, slots=True)
class Setting:
    """The registry holds the cache's images; `link` leads to it; `directory` is empty at first."""

    registry: Registry
    link: Link
    directory: Path

    @contextmanager
    def crfs(self, image: str, tag: str, *, keep_cache: bool = False) -> Iterator[mounts.Mount]:
        """Mount an image through the link, with an empty disk cache unless the last one is kept."""
        cache = self.directory / "cache"
        if not keep_cache:
            remove_tree(cache)
        self.link.take()
        ref = f"{self.link.host}/{repository(image)}:{tag}"
        with mounts.crfs(ref, self.directory / "crfs", cache) as mount:
            yield mount


@contextmanager
def setting(image: str, tag: str, *, round_trip: float = 0.0, rate: float = 0.0) -> Iterator[Setting]:
    """A setting with the image in its registry, built if need be, until the block ends."""
    with registry() as served, tempfile.TemporaryDirectory(prefix="bench-", dir=cache_dir()) as directory:
        pushed(image, served, tag)
        with link(served.port, Shape("", rate, round_trip)) as counted:
            yield Setting(served, counted, Path(directory))


def timed(*argv: str | Path, output: bool = False) -> tuple[float, str]:
    """How long a program ran, and what it wrote if `output`. Raises CalledProcessError where it fails."""
    stdout = subprocess.PIPE if output else subprocess.DEVNULL
    begun = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=stdout, check=True)
    return time.perf_counter() - begun, (done.stdout or b"").decode(errors="replace")
