"""How commands that have something to clean up are ended."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextlib.contextmanager
def terminable(first: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Have signals that end a program leave through every clean-up, which they don't interrupt. On the main thread.

    `first` is called before, where waits have to end that clean-up would wait for.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        first()
        raise SystemExit(128 + number)

    before = [signal.signal(number, leave) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
