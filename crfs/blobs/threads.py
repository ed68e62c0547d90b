"""How threads begin that have a program's work to do, but not its signals to answer."""

import signal


def leave_signals() -> None:
    """Signals that end a program are for other threads than the calling one, whoever has started it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
