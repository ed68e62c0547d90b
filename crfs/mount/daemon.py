"""Into the background: the caller returns when the mount answers, its child serves on.

The fork comes before any thread, loop or mount exists; the child does the work and reports through a pipe.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

Ready = Callable[[int], None]
_tell: Callable[[int], None] | None = None


def tell_status(tell: Callable[[int], None]) -> None:
    """This process was forked for a command whose caller waits for the status that is told: it need not fork again."""
    global _tell
    _tell = tell


def run_in_background(work: Callable[[Ready], None]) -> None:
    """start_daemon(); or, after tell_status(), `work` here, until it has ended."""
    if _tell is not None:
        _run_here(work, _tell)
    else:
        start_daemon(work)


def start_daemon(work: Callable[[Ready], None]) -> None:
    """Run `work(ready)` in a child; return when it calls `ready(log)`.

    Until then the child shares our stderr; then it becomes a daemon, whose stderr is the file descriptor
    `log`.
    Where it ends before, so do we, with its status; it has then said why itself.
    """
    read_end, write_end = os.pipe()
    signal.signal(signal.SIGTERM, leave)
    pid = os.fork()
    if pid:
        os.close(write_end)
        _await_ready(pid, read_end)
        return
    os.close(read_end)
    os.setsid()

    def ready(log: int) -> None:
        _detach(log)
        os.write(write_end, b"r")
        os.close(write_end)

    work(ready)


def _run_here(work: Callable[[Ready], None], tell: Callable[[int], None]) -> None:
    os.setsid()

    def ready(log: int) -> None:
        _detach(log)
        # the caller may have gone away meanwhile
        with contextlib.suppress(OSError):
            tell(0)

    work(ready)


def leave(number: int, _frame: FrameType | None) -> None:
    """Ends this process, through every clean-up, with the status that a shell has for a signal."""
    sys.exit(128 + number)


def _await_ready(pid: int, read_end: int) -> None:
    """Until the child is ready or has ended. A signal to us ends the child too: it must not mount unseen."""
    try:
        with os.fdopen(read_end, "rb") as pipe:
            if pipe.read(1):
                return
    except (KeyboardInterrupt, SystemExit):
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status) or 1)


def _detach(log: int) -> None:
    """Let go of the caller's terminal and directory; what is still written to stderr goes to the log."""
    null = os.open(os.devnull, os.O_RDWR)
    sys.stderr.flush()
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    if null > 2:
        os.close(null)
    os.chdir("/")
