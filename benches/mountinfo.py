"""What is mounted where, as /proc/self/mountinfo has it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountPoint(NamedTuple):
    """A mount's path, the file system's type, and what it calls its source."""

    path: Path
    kind: str
    source: str


def mounts() -> Iterator[MountPoint]:
    """All mounts, those on top after those below them."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        yield parse(line)


def parse(line: bytes) -> MountPoint:
    """One line, in which proc(5) writes space, tab, newline and backslash in octal."""
    fields, _, tail = line.partition(b" - ")
    kind, source = tail.split(b" ")[:2]
    return MountPoint(Path(_text(fields.split(b" ")[4])), os.fsdecode(kind), _text(source))


def mount_type(at: Path) -> str | None:
    """The type of the topmost mount at a path; None where none is."""
    found = find_mount(at)
    return found.kind if found else None


def find_mount(at: Path) -> MountPoint | None:
    """The topmost mount at a path."""
    return next((found for found in reversed(list(mounts())) if found.path == at), None)


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below a directory, in the order they were mounted."""
    root = directory.resolve()
    return [found.path for found in mounts() if found.path.is_relative_to(root)]


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
