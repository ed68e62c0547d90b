"""What a running mount tells of itself: JSON, on a socket beside its state file, to whoever may connect there.

One answer per connection: the report at that moment. The socket is named by the mount's device number and the
process, and lies in the user's runtime directory, which is nobody else's.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from crfs.blobs.directories import runtime_directory
from crfs.image.report import Report

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
    thread = threading.Thread(target=_answer_all, args=(listener, report), name="crfs-telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            socket_path(device, os.getpid()).unlink()
        # wakes the thread, as close() would not
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(_SECONDS)
        listener.close()


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
            # as root's runtime directory may be looked into by others
            before = os.umask(0o177)
            try:
                listener.bind(name)
            finally:
                os.umask(before)
        listener.listen()
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


def _answer_all(listener: socket.socket, report: Callable[[], Report]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            # the end
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_SECONDS)
            connection.sendall(msgspec.json.encode(report()))
