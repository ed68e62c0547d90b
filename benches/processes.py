"""Find processes by their command line or by who began them, end them, and weigh them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StillRunning(Exception):
    """Processes that should have ended did not."""


def command_line(pid: int) -> bytes:
    """The words, each with a zero byte after it; nothing of a process that is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def all_pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def with_word(word: str | Path) -> list[int]:
    """The processes with a word on their command line, this one left out."""
    wanted = os.fsencode(word)
    return [pid for pid in all_pids() if pid != os.getpid() and wanted in command_line(pid).split(b"\0")]


def naming(directory: Path) -> list[int]:
    """The processes with a path in the directory (or the directory) on their command line, but not this one."""
    wanted = os.fsencode(directory)
    return [pid for pid in all_pids() if pid != os.getpid() and wanted in command_line(pid)]


def adopt_orphans() -> None:
    """Be the parent of every process that a child of ours leaves, so that descendants() knows them all."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def interrupt_on_signals() -> None:
    """Let whatever is to end this process raise KeyboardInterrupt, once."""
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    # what is cleaned up now is not to be interrupted, nor are the programs that do it
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def descendants() -> set[int]:
    """This process's children, theirs, and so on."""
    parents = dict(_parents())
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def end_new(before: set[int]) -> None:
    """End all descendants that were not among those before, and reap those that we adopted."""
    end_all(lambda: [pid for pid in descendants() - before if command_line(pid)])
    for pid in descendants() - before:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def await_end(pids: Iterable[int], seconds: float = 10) -> None:
    """Wait until the processes are gone. Raises StillRunning."""
    left = list(pids)
    deadline = time.monotonic() + seconds
    while left := [pid for pid in left if command_line(pid)]:
        if time.monotonic() > deadline:
            raise StillRunning(f"processes {left} run on")
        time.sleep(0.02)


def await_idle(pids: Sequence[int], quiet: float = 0.3, most: float = 30.0) -> None:
    """Wait until the processes have had nothing of processors for so many seconds, or for as long as `most`."""
    deadline = time.monotonic() + most
    before, since = cpu_seconds(pids), time.monotonic()
    while time.monotonic() < min(since + quiet, deadline):
        time.sleep(0.05)
        if (now := cpu_seconds(pids)) != before:
            before, since = now, time.monotonic()


def end_all(find: Callable[[], list[int]], seconds: float = 10) -> None:
    """Ask all that `find` returns to end, and kill what does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in find():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(StillRunning):
            await_end(find(), seconds)
            return


@contextlib.contextmanager
def ending_after(seconds: float, before: set[int]) -> Iterator[threading.Event]:
    """End what began after `before` and runs when the block has taken so long; set is then what is given.

    Whoever waits for it in the block goes on, also for a file of a mount whose daemon is stuck.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        end_all(lambda: [pid for pid in descendants() - before if command_line(pid)])

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


def weigh(pids: Iterable[int]) -> tuple[int, int]:
    """RSS and PSS of the processes, in bytes and in sum; 0 of none, and of those that are gone."""
    rollups = list(map(_rollup, pids))
    return sum(_field(text, "Rss") for text in rollups), sum(_field(text, "Pss") for text in rollups)


def cpu_seconds(pids: Iterable[int]) -> float:
    """What the processes have had of processors until now, in sum; 0 of those that are gone."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that each of the processes ever held (VmHWM), in sum."""
    return sum(_field(_status(pid), "VmHWM") for pid in pids)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on."""
    # the name, in parentheses, may hold anything
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _rollup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _parents() -> Iterator[tuple[int, int]]:
    for pid in all_pids():
        with contextlib.suppress(OSError):
            yield pid, int(_stat(pid)[1])


def _field(rollup: str, name: str) -> int:
    lines = (line.split() for line in rollup.splitlines() if line.startswith(f"{name}:"))
    return sum(int(words[1]) * 1024 for words in lines)
