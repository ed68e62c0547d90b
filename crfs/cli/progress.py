"""The line that `crfs run --progress` keeps up to date: what has been fetched, and how long readers have waited.

It is the terminal's last line, as long as the program writes nothing, and stays there with the last figures.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from crfs.image.report import Report
from crfs.mount.mountpoint import find_mount
from crfs.mount.state import find_state
from crfs.mount.telling import ask


class Progress:
    """Of the mount at `rootfs`; use progress()."""

    def __init__(self, live: Live, rootfs: Path) -> None:
        self._live = live
        self._rootfs = rootfs
        self._shown = ""

    def tick(self) -> None:
        """Have the line say what is true now."""
        mounted = find_mount(self._rootfs)
        state = find_state(mounted.device) if mounted else None
        report = ask(mounted.device, state.pid) if mounted and state else None
        line = line_of(report) if report else self._shown
        if line != self._shown:
            self._shown = line
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


def line_of(report: Report) -> str:
    """A report in one line."""
    waited = f"waited {report.stalls.seconds:.1f} s for it" if report.stalls.count else "nobody waited"
    return (
        f"{decimal(report.fetched)} of {decimal(report.size)} fetched, {report.requests} requests, {waited}"
    )


@contextlib.contextmanager
def progress(rootfs: Path) -> Iterator[Progress | None]:
    """The line, on stderr; None where that is no terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield Progress(live, rootfs)
