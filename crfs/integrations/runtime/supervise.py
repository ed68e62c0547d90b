"""Runs a container's runtime as a child, and hands on to it what signals say, until it ends. Main thread only.

Signals are not handled but waited for: nothing is interrupted, and who sent one is known.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence

# not handed on: what is about this process itself, what tells of faults, and what can't be caught
_OWN = {"SIGCHLD", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT"}
_OWN |= {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS", "SIGKILL", "SIGSTOP"}
# siginfo's si_code (sigaction(2)) of what the kernel sends, as for Ctrl-C: to all in the terminal's foreground
_FROM_KERNEL = 0x80
_TICK_SECONDS = 0.2


def passed_on() -> set[int]:
    """The signals that a container is to have."""
    return {number for number in signal.valid_signals() if _name(number) not in _OWN}


def _name(number: int) -> str:
    return number.name if isinstance(number, signal.Signals) else ""


class Stopping:
    """What SIGTERM asks for: the image's own `stop` signal, and the end after `seconds` all the same."""

    def __init__(self, stop: int, seconds: float, kill: Callable[[int], None]) -> None:
        self._stop = stop
        self._seconds = seconds
        self._kill = kill
        self._until: float | None = None

    def hand_on(self, pid: int, number: int) -> None:
        """To the runtime, which sends it to the container."""
        if number == signal.SIGTERM:
            self._until = self._until or time.monotonic() + self._seconds
            number = self._stop
        os.kill(pid, number)

    def next_seconds(self) -> float:
        """How long to wait for the next signal; the container is killed when its time is over."""
        if self._until is None:
            return 3600.0
        left = self._until - time.monotonic()
        if left <= 0:
            self._kill(signal.SIGKILL)
            self._until += self._seconds or 1.0
            return 1.0
        return left


def supervise(
    words: Sequence[str], closed_stdin: bool, stopping: Stopping, tick: Callable[[], None] | None = None
) -> int:
    """Run `words` to their end; the exit status, of a signal 128 and its number. OSError where they can't be run.

    Meanwhile `tick` is called a few times a second.
    """
    numbers = passed_on() | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        pid = _spawn(words, closed_stdin)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            seconds = stopping.next_seconds()
            if tick is not None:
                tick()
                seconds = min(seconds, _TICK_SECONDS)
            info = signal.sigtimedwait(numbers, seconds)
            if info is not None and info.si_signo != signal.SIGCHLD and info.si_code != _FROM_KERNEL:
                stopping.hand_on(pid, info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(words: Sequence[str], closed_stdin: bool) -> int:
    null = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)] if closed_stdin else []
    # Python ignores some
    default = {signal.SIGPIPE, signal.SIGXFSZ}
    return os.posix_spawn(
        words[0], list(words), os.environ, file_actions=null, setsigmask=(), setsigdef=default
    )
