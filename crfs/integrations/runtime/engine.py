"""crun or runc: which one, how it is called, and what became of a container by what it says.

podman's exit statuses: 125 we failed, 126 the program can't be run, 127 it is not there; else the container's own.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from crfs.errors import UnsupportedError

FAILED, NOT_RUN, NOT_THERE = 125, 126, 127
_RUNTIMES = ("crun", "runc")
_CGROUPS = Path("/sys/fs/cgroup")
_DELETE_SECONDS = 20


class Runtime(Struct, frozen=True):
    """A runtime's program, and the directory where it keeps its state and what it says of failures."""

    program: str
    place: Path

    @property
    def _log(self) -> Path:
        return self.place / "log"

    def _words(self) -> list[str]:
        words = [self.program, "--root", str(self.place / "state"), "--log", str(self._log)]
        # nothing is limited: in a control group of its own a container would need what users may not have
        manager = ["--cgroup-manager=disabled"] if os.path.basename(self.program) == "crun" else []
        return [*words, "--log-format", "json", *manager]

    def run(self, bundle: Path, name: str) -> list[str]:
        """The command that runs a container in the foreground, to its end."""
        return [*self._words(), "run", "--bundle", str(bundle), name]

    def kill(self, name: str, number: int) -> None:
        """Send a signal to a container's first process, if there is one."""
        self._call("kill", name, str(number))

    def delete(self, name: str) -> None:
        """Have nothing left of a container, whatever state it is in."""
        if (self.place / "state" / name).exists():
            self._call("delete", "--force", name)

    def _call(self, *words: str) -> None:
        subprocess.run(
            [*self._words(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_DELETE_SECONDS,
            check=False,
        )

    def status(self, status: int) -> int:
        """The exit status of `run`, told apart: the container's, or that it did not start."""
        said = self._errors() if status else ""
        if not said:
            return status
        return NOT_THERE if re.search(r"no such file|not found", said, re.IGNORECASE) else NOT_RUN

    def _errors(self) -> str:
        try:
            lines = self._log.read_bytes().splitlines()
        except OSError:
            return ""
        return " ".join(line.msg for line in map(_line, lines) if line.level in ("error", "fatal"))


class _Line(Struct):
    msg: str = ""
    level: str = ""


def _line(text: bytes) -> _Line:
    try:
        return msgspec.json.decode(text, type=_Line)
    except msgspec.DecodeError:
        return _Line()


def find_runtime(wanted: str | None, place: Path) -> Runtime:
    """The one that is wanted, else the first that there is; UnsupportedError."""
    names: Sequence[str] = [wanted] if wanted else _preferred()
    for name in names:
        program = shutil.which(name)
        if program is not None:
            return Runtime(program, place)
    if wanted:
        raise UnsupportedError(f"there is no runtime {wanted}: it is not in $PATH")
    raise UnsupportedError("there is neither crun nor runc: install the package crun (or runc)")


def _preferred() -> Sequence[str]:
    """crun, which starts quicker, but takes no cgroups of both versions at once."""
    hybrid = (_CGROUPS / "unified/cgroup.procs").exists()
    return _RUNTIMES[::-1] if hybrid else _RUNTIMES
