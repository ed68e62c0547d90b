"""What a running mount tells of itself: JSON, on a socket beside its state file, to whoever may connect there.

One answer per connection: the report at that moment. The socket is named by the mount's device number and the
process, and lies in the user's runtime directory, which is nobody else's. One thread answers for all mounts that a
process serves.
"""

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from crfs.blobs.directories import runtime_directory
from crfs.image.report import Report

log = logging.getLogger(__name__)
# a mount that serves answers at once
_SECONDS = 2.0
_PIECE = 1 << 16


@contextlib.contextmanager
def telling(device: str, report: Callable[[], Report]) -> Iterator[None]:
    """Answer, for as long as this lasts, for the mount with that device number, which this process serves.

    Where the runtime directory takes no socket, nobody is told anything.
    """
    try:
        listener = _listen(socket_path(device, os.getpid()))
    except OSError:
        yield
        return
    with listener, _answering.during(listener, report):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                socket_path(device, os.getpid()).unlink()


class _Answering:
    """The thread that answers, from the first mount on; any thread."""

    def __init__(self) -> None:
        # held for an answer: once during() is over, no report is asked for any more
        self._lock = threading.Lock()
        self._listeners: dict[int, tuple[socket.socket, Callable[[], Report]]] = {}
        self._epoll: select.epoll | None = None

    @contextlib.contextmanager
    def during(self, listener: socket.socket, report: Callable[[], Report]) -> Iterator[None]:
        """Answer who connects there, for as long as this lasts."""
        number = listener.fileno()
        with self._lock:
            self._listeners[number] = (listener, report)
            epoll = self._started()
            epoll.register(number, select.EPOLLIN)
        try:
            yield
        finally:
            with self._lock:
                epoll.unregister(number)
                del self._listeners[number]

    def _started(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            threading.Thread(target=self._run, args=(self._epoll,), name="crfs-telling", daemon=True).start()
        return self._epoll

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for number, _ in epoll.poll():
                with self._lock:
                    if number in self._listeners:
                        _answer(*self._listeners[number])


_answering = _Answering()


def ask(device: str, pid: int) -> Report | None:
    """The report of the mount that this process serves; None where it does not answer."""
    try:
        with _short(socket_path(device, pid)) as name, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(name)
            parts = []
            while part := connection.recv(_PIECE):
                parts.append(part)
        return msgspec.json.decode(b"".join(parts), type=Report)
    except (OSError, msgspec.DecodeError):
        return None


def socket_path(device: str, pid: int) -> Path:
    """Where a process answers for a mount."""
    return runtime_directory() / f"mount-{device.replace(':', '-')}.{pid}.sock"


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as name:
            listener.bind(name)
            # root's runtime directory may be looked into by others, who find nobody listening until then
            os.chmod(name, 0o600)
        listener.listen()
        # who connects may be gone before he is let in
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for a path that fits into a socket's address, which has 108 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _answer(listener: socket.socket, report: Callable[[], Report]) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_SECONDS)
            try:
                said = msgspec.json.encode(report())
            except Exception:
                # the other mounts are still to be told of
                log.exception("a mount can't tell of itself")
                return
            connection.sendall(said)
