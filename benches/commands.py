"""Run programs, and tell what they said when they fail. Any thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO


class CommandFailed(Exception):
    """A program ended with another code than 0; the message holds its command line and what it said."""


def run(*argv: str | bytes | Path, cwd: Path | None = None, stdin: IO[bytes] | None = None) -> str:
    """Run a program to its end in the C locale; its standard output. Raises CommandFailed."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-4000:]
        raise CommandFailed(f"{_shown(argv)}: exit {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def missing_programs(*names: str) -> list[str]:
    """Those of the names that no directory of PATH (nor of root's PATH) has."""
    return [name for name in names if find_program(name) is None]


def find_program(name: str) -> str | None:
    """Where a program is; root's directories count although a user's PATH leaves them out, and this Python's do."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", beside])
    return shutil.which(name, path=path)


def _shown(argv: tuple[str | bytes | Path, ...]) -> str:
    return " ".join(os.fsdecode(word) for word in argv)
