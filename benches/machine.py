"""What numbers were taken on: the machine, and the commit."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import msgspec

from benches.commands import CommandFailed, run

_ROOT = Path(__file__).resolve().parent.parent


class Machine(msgspec.Struct, frozen=True):
    """As it says of itself."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    system: str
    python: str

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        return (
            f"{self.cores} x {self.cpu}, {memory}, {self.system}, Linux {self.kernel}, Python {self.python}"
        )


def machine() -> Machine:
    """This one."""
    model = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return Machine(
        cpu=model[0] if model else platform.processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=memory * 1024,
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        python=sys.version.split()[0],
    )


def commit() -> str:
    """What git says of the tree that the benches are run from; nothing where it isn't git's."""
    try:
        return run("git", "-C", _ROOT, "describe", "--always", "--dirty", "--abbrev=12").strip()
    except (OSError, CommandFailed):
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()
