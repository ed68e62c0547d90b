"""One llfuse session: mount, serve until unmounted or told to stop, leave nothing mounted.

llfuse has one session in a process. serve() runs on the main thread, since llfuse's handlers of signals do.
"""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import llfuse

from crfs._native import answers, turns
from crfs.errors import MountError
from crfs.fuse.unmount import unmount

log = logging.getLogger(__name__)
Operations = llfuse.Operations
# How many threads handle requests. They pass one lock around and the kernel wakes them in turn, so each one more
# makes a request cost more; but whatever waits for the network holds one, and the others are for what is here.
NETWORK_WORKERS = 64
# where nothing is waited for but disks
DISK_WORKERS = 4
# what the workers have to return in once everything that they wait for has been told to fail
_STOP_SECONDS = 5
# what libfuse asks for at the start in ways that only it knows
_NEGOTIATED = (
    "async_read",
    "congestion_threshold",
    "max_background",
    "max_readahead",
    "max_write",
    "sync_read",
)
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


@runtime_checkable
class Directories(Protocol):
    """Operations that tell of directories without llfuse: names and, with `plus`, what lookups of them would say.

    `opens_directories`: each is opened, every time with another handle; else `fh` says nothing. `off`: after how many
    names. At most `size` bytes, as crfs._native.listing makes them; OSError.
    """

    opens_directories: bool

    def read_directory(self, inode: int, fh: int, off: int, size: int, plus: bool, /) -> bytes: ...


def open_session(operations: llfuse.Operations, mountpoint: Path, options: Sequence[str]) -> None:
    """Mount. MountError with libfuse's own words where it can't be."""
    if isinstance(operations, Directories):
        plus = not any(option.startswith(_NEGOTIATED) for option in options)
        answers.serve_directories(operations.read_directory, operations.opens_directories, plus)
    with _captured_stderr() as said:
        try:
            llfuse.init(operations, str(mountpoint), list(options))
        except RuntimeError as error:
            reason = " ".join(said().split()) or str(error)
            raise MountError(f"{mountpoint}: {reason}") from error


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """libfuse says why a mount failed on stderr and nowhere else."""
    file, saved = os.memfd_create("stderr"), os.dup(2)
    os.dup2(file, 2)
    try:
        yield lambda: os.pread(file, 4096, 0).decode(errors="replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(file)


def block_signals() -> None:
    """Before any thread starts: SIGTERM and SIGINT are for the thread that serve() starts alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """On the main thread, after block_signals(): meanwhile SIGTERM and SIGINT raise what ends a program."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        signal.signal(signal.SIGTERM, before)


def serve(
    mountpoint: Path, ready: Callable[[], None], stop: Callable[[], None], *, workers: int = NETWORK_WORKERS
) -> None:
    """Answer requests until the file system is unmounted, or a signal calls `stop` and ends it; then unmount.

    `ready` is called when requests are about to be answered. `stop` must make every handler that waits
    return soon.
    """
    ended = threading.Event()
    stopper = threading.Thread(
        target=_await_signal, args=(mountpoint, stop, ended), name="crfs-signals", daemon=True
    )
    # until llfuse has its own handler, which ends its loop
    signal.signal(signal.SIGHUP, lambda *_: None)
    stopper.start()
    try:
        ready()
        llfuse.main(workers=workers)
    except OSError as error:
        # a worker was taking a request when the kernel ended the connection
        if error.errno != errno.ECONNABORTED:
            raise
    finally:
        ended.set()
        stop()
        llfuse.close(unmount=True)


def _await_signal(mountpoint: Path, stop: Callable[[], None], ended: threading.Event) -> None:
    """Turn SIGTERM into the end of llfuse's loop, however busy it is."""
    number = signal.sigwait(_STOP_SIGNALS)
    log.info("%s: unmounting %s", signal.Signals(number).name, mountpoint)
    stop()
    for _ in range(_STOP_SECONDS * 10):
        # its handler has to run on the main thread, which may not have come to its loop yet
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)
        turns.end()
        if ended.wait(0.1):
            return
    log.error("the workers do not end; unmounting %s by force", mountpoint)
    unmount(mountpoint, lazy=True)
    os._exit(1)
