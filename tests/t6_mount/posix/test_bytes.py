"""What is written is what is read, in any way: one process with a model of the file, and several with a part each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.support.overlaymounts import Mounter
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.posix import exercise

_STEPS = 400
_SIZE = 200_000
_PROCESSES = 4
# not of whole pages, so that neighbours meet in one
_PART = 50_001


@pytest.fixture
def side(arena: Arena, overlay: Mounter) -> Iterator[Side]:
    base = arena.new_directory()
    lower = base / "lower"
    lower.mkdir()
    (lower / "file").write_bytes(b"0123456789" * (_SIZE // 10))
    with mounted(overlay, arena, (lower,), base) as found:
        (found.at / "new").write_bytes(b"0123456789" * (_SIZE // 10))
        yield found


def run(*argument_lists: Sequence[object]) -> None:
    """The program, once for each list, all at the same time."""
    command = [sys.executable, exercise.__file__]
    running = [
        subprocess.Popen([*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        for arguments in argument_lists
    ]
    try:
        said = [process.communicate(timeout=60)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), "\n".join(said)


@pytest.mark.parametrize("name", ["file", "new"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_process(side: Side, name: str, seed: int) -> None:
    run([side.at / name, seed, _STEPS])


@pytest.mark.parametrize("name", ["file", "new"])
def test_several_processes(side: Side, name: str) -> None:
    parts = [(number * _PART, min((number + 1) * _PART, _SIZE)) for number in range(_PROCESSES)]
    run(*[[side.at / name, seed, _STEPS, *part] for seed, part in enumerate(parts)])
