"""What every peer offers, whether it is a program, a file system or a library."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from benches.commands import CommandFailed, find_program, run
from benches.mounts import Mount
from benches.place import Place, Source


class NotHere(Exception):
    """The peer is not on this machine; the message says what is missing."""


class Peer(Protocol):
    """Somebody to ask. Names are the same in all benches, so that colours and columns are too."""

    @property
    def name(self) -> str: ...

    def version(self) -> str:
        """What the peer says of itself. Raises NotHere."""
        ...


class Store(Protocol):
    """What a peer keeps of images; empty at first. Threads may mount side by side."""

    def mounted(self, image: str, at: Path) -> AbstractContextManager[Mount]:
        """The image's tree until the block ends: at `at`, or where the peer has its trees.

        Entering is what is timed. The mount is proven to be of the type it should be.
        """
        ...


class Mounter(Peer, Protocol):
    """A peer that makes a tree of an image."""

    def prepare(self, image: str, source: Source) -> None:
        """Build what the peer begins with: a tag in the registry, an unpacked tree, an archive."""
        ...

    def store(self, place: Place) -> AbstractContextManager[Store]:
        """An empty store, its daemon running where there is one; nothing of it is left after the block."""
        ...


def version_of(program: str, *options: str) -> str:
    """The first line that a program says when asked for its version. Raises NotHere; CommandFailed where it fails."""
    said = run(needed(program), *(options or ("--version",)))
    return next((line.strip() for line in said.splitlines() if line.strip()), "")


def package_version(program: str, package: str) -> str:
    """Of a program that does not say its version: that of its Debian package. Raises NotHere."""
    needed(program)
    try:
        return f"{program} {run('dpkg-query', '-W', '-f', '${Version}', package)}"
    except CommandFailed:
        return f"{program} (not Debian's)"


def needed(program: str) -> str:
    """Where a program is. Raises NotHere."""
    path = find_program(program)
    if path is None:
        raise NotHere(f"{program} is not on PATH")
    return path
