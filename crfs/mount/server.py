"""A process that serves mounts for as long as there are any: lets those in who ask (crfs.mount.joining).

Each wish is a thread's, until it is mounted. Of what is mounted, it only knows how much there is.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

import msgspec

from crfs.blobs.threads import leave_signals
from crfs.errors import CrfsError, MountError
from crfs.mount.door import Door
from crfs.mount.handover import peer_uid
from crfs.mount.joining import TAKEN, WISH_MAX, Answer, answer_of

log = logging.getLogger(__name__)
Gone = Callable[[], bool]
# mounts what is wished for, unless whoever wishes it is gone; gives what takes it down. The stack is closed, and
# Uses.end() called, once it is not mounted any more. Any CrfsError: then both are the caller's
Make = Callable[[bytes, contextlib.ExitStack, Gone], Callable[[], None]]
# whoever has started it is at the door by then
_FIRST_SECONDS = 10.0


class Uses:
    """How many mounts there are, and wishes for more; `ended` is called once, when there are none any more."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._count = 0
        self._over = False

    def begin(self) -> bool:
        """One more, if it is not too late."""
        with self._lock:
            self._count += not self._over
            return not self._over

    def end(self) -> None:
        """One less."""
        with self._lock:
            self._count -= 1
            if self._count or self._over:
                return
            self._over = True
        self._ended()

    def end_if_none(self) -> None:
        """Where there has never been one."""
        if self.begin():
            self.end()


class Server:
    """Lets in who asks at a door, and has `make` mount what he wishes."""

    def __init__(self, door: Door, uses: Uses, make: Make) -> None:
        self._door = door
        self._uses = uses
        self._make = make

    def start(self) -> None:
        """Begin to let in."""
        listener = socket.socket(fileno=os.dup(self._door.listener.fileno()))
        threading.Thread(target=self._let_in, args=(listener,), name="crfs-door", daemon=True).start()
        timer = threading.Timer(_FIRST_SECONDS, self._uses.end_if_none)
        timer.daemon = True
        timer.start()

    def _let_in(self, listener: socket.socket) -> None:
        leave_signals()
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                # closed: the end
                listener.close()
                return
            if peer_uid(connection) != os.geteuid() or not self._uses.begin():
                # he starts another one
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="crfs-wish", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        leave_signals()
        until_end = contextlib.ExitStack()
        with connection:
            try:
                wish, held, _, _ = socket.recv_fds(connection, WISH_MAX, 1)
                for descriptor in held:
                    until_end.callback(os.close, descriptor)
                take_down = self._make(wish, until_end, lambda: _is_gone(connection))
            except CrfsError as error:
                self._undo(connection, until_end, answer_of(error))
                return
            except Exception as error:
                log.exception("a mount could not be made")
                failure = MountError(f"the process that serves mounts has failed: {error!r}")
                self._undo(connection, until_end, answer_of(failure))
                return
            if not _is_taken(connection):
                take_down()

    def _undo(self, connection: socket.socket, until_end: contextlib.ExitStack, answer: Answer) -> None:
        # first: whoever is told finds nothing of it
        until_end.close()
        _tell(connection, answer)
        self._uses.end()


def _tell(connection: socket.socket, answer: Answer) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(msgspec.json.encode(answer))


def _is_taken(connection: socket.socket) -> bool:
    """Whether who has asked is still there to be told that it is mounted."""
    _tell(connection, Answer())
    try:
        return connection.recv(len(TAKEN)) == TAKEN
    except OSError:
        return False


def _is_gone(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
