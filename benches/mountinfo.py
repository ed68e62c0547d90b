"""What is mounted where, as /proc/self/mountinfo has it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mounts() -> Iterator[tuple[Path, str]]:
    """Each mount's path and type, those on top after those below them."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        yield parse(line)


def parse(line: bytes) -> tuple[Path, str]:
    """Path and type of one line, in which proc(5) writes space, tab, newline and backslash in octal."""
    fields, _, tail = line.partition(b" - ")
    point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields.split(b" ")[4])
    return Path(os.fsdecode(point)), os.fsdecode(tail.split(b" ")[0])


def mount_type(at: Path) -> str | None:
    """The type of the topmost mount at a path; None where none is."""
    return next((kind for point, kind in reversed(list(mounts())) if point == at), None)


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below a directory, in the order they were mounted."""
    root = directory.resolve()
    return [point for point, _ in mounts() if point.is_relative_to(root)]
