"""Programs that are run in a tree and timed, and what they have to say."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benches.commands import CommandFailed, run
from benches.mounts import Mount

_NUMPY = "import json, ssl, sqlite3, numpy; print(numpy.__version__)"


def timed(*argv: str | Path) -> tuple[float, str]:
    """How long a program ran, and what it wrote. Raises CommandFailed."""
    begun = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise CommandFailed(f"{' '.join(map(str, argv))}: exit {done.returncode}: {said}")
    return seconds, done.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Weight:
    """What a program and its children took: time, time of processors, and the most memory that one of them held."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def weighed(*argv: str | Path, into: Path | None = None) -> Weight:
    """What a program takes, its output in a file or nowhere. Raises CommandFailed."""
    with tempfile.TemporaryFile() as said, open(into or os.devnull, "wb") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            message = said.read().decode(errors="replace").strip()[-2000:]
            raise CommandFailed(f"{' '.join(map(str, argv))}: exit {process.returncode}: {message}")
    return Weight(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def read_whole(tree: Path) -> None:
    """Read all names and bytes of a tree. Raises CommandFailed."""
    # an archive that goes nowhere is one for which tar reads no file
    run("sh", "-c", 'tar -C "$1" --warning=no-file-ignored -cf - . | cat > "$2"', "sh", tree, os.devnull)


def in_root(mount: Mount, *argv: str) -> tuple[float, str]:
    """The same for a program of the tree, in a chroot of it with an empty environment."""
    return timed("chroot", mount.path, "/usr/bin/env", "-i", *argv)


def import_numpy(mount: Mount) -> tuple[float, str]:
    """A python3 of the tree that imports json, ssl, sqlite3 and numpy, and says numpy's version."""
    return in_root(mount, "/usr/bin/python3", "-B", "-c", _NUMPY)
