"""A mount is left to a process that serves others as well: what the two sides share, and the side that asks.

A server is for mounts with one key, which says all that these must have in common. It listens at a socket that is named
by the key; who wants a mount and finds nobody there starts one. A connection is one mount: the wish, and with it a
descriptor that the server holds until the mount has ended; the answer; and a last word, without which the mount is
taken down again.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from crfs.blobs.directories import runtime_directory
from crfs.errors import CrfsError, EngineRefused, MountError, UsageError
from crfs.mount.door import Door, open_door
from crfs.mount.handover import peer_uid

WISH_MAX = 1 << 17
ANSWER_MAX = 1 << 16
TAKEN = b"T"
# a server that ends, or is killed, in the middle of it
_TRIES = 5
# somebody who holds the lock and does not listen yet will soon, or is about to end
_LOOK_SECONDS = 0.002
_LOOKS = 2500
# what a server has to take down a mount in that nobody wants any more
_UNDO_SECONDS = 10.0


class Answer(Struct, frozen=True):
    """How it went: `failure` is the name of an error, None: it is mounted."""

    failure: str | None = None
    words: str = ""


_ERRORS = {error.__name__: error for error in (EngineRefused, UsageError, MountError, CrfsError)}


def answer_of(error: CrfsError) -> Answer:
    """What is told of an error."""
    name = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
    return Answer(name, str(error))


def socket_path(key: bytes) -> Path:
    """Where the server of these mounts listens."""
    return runtime_directory() / f"server-{sha256(key).hexdigest()[:16]}.sock"


# makes a server, in another process, and returns when that is at work; the connection is only the caller's
Start = Callable[[Door, socket.socket], None]


def ask(key: bytes, wish: bytes, held: int, start: Start) -> None:
    """Have something mounted by the server of that key, which `start` makes where there is none.

    The server's error, or MountError.
    """
    for _ in range(_TRIES):
        with contextlib.closing(_connection(key, wish, held, start)) as connection:
            answer = _answer(connection)
            if answer is None:
                # it was about to end
                time.sleep(_LOOK_SECONDS)
                continue
            if answer.failure is not None:
                raise _ERRORS[answer.failure](answer.words)
            with contextlib.suppress(OSError):
                connection.sendall(TAKEN)
                return
    raise MountError("the process that is to serve the mount ends again and again")


def _connection(key: bytes, wish: bytes, held: int, start: Start) -> socket.socket:
    """To a server that has been told the wish."""
    path = socket_path(key)
    for _ in range(_LOOKS):
        connection = _told(path, wish, held)
        if connection is not None:
            return connection
        door = open_door(os.fspath(path))
        if door is not None:
            # before the fork: the server then finds it, and need not wait
            connection = _told(path, wish, held)
            if connection is None:
                door.close()
                raise MountError(f"{path}: nobody can listen here")
            start(door, connection)
            return connection
        time.sleep(_LOOK_SECONDS)
    raise MountError(f"{path}: nobody listens here, and somebody holds the lock")


def _told(path: Path, wish: bytes, held: int) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(os.fspath(path))
        if peer_uid(connection) == os.geteuid():
            socket.send_fds(connection, [wish], [held])
            return connection
    except (FileNotFoundError, ConnectionError):
        pass
    except OSError as error:
        connection.close()
        raise MountError(f"{path}: {error.strerror}") from error
    connection.close()
    return None


def _answer(connection: socket.socket) -> Answer | None:
    """None where the server has ended without one. Whoever does not wait for it wants nothing mounted."""
    try:
        said = connection.recv(ANSWER_MAX)
    except OSError:
        return None
    except BaseException:
        # until the server has seen to that
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_UNDO_SECONDS)
        with contextlib.suppress(OSError):
            while connection.recv(ANSWER_MAX):
                pass
        raise
    return msgspec.json.decode(said, type=Answer) if said else None
