"""A process that has everything imported and forks a child for each command line that is handed to it.

It never starts a thread, opens nothing and mounts nothing by itself. It is begun by a command that was not handed
over and has opened the door for it, has that one's identity (crfs.mount.handover), and ends IDLE_SECONDS after its last
mount.
"""

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct, field
from setproctitle import setproctitle

from crfs.mount import daemon
from crfs.mount.door import Door, lock_path, remove
from crfs.mount.handover import (
    ANSWER_SECONDS,
    DISABLE,
    GO,
    IS_WARM,
    NUMBER_BYTES,
    READY,
    identity,
    number_from_bytes,
    number_to_bytes,
    peer_uid,
)

Programs = Mapping[str, Callable[[Sequence[str]], int]]
IDLE_SECONDS = 5.0
# the first mount, and programs that are just started, have the machine to themselves before more is imported here
_PRELOAD_AFTER = 2.5
_MESSAGE_MAX = 1 << 20
# above what files are kept as
_HIGH = 16
_FILES = 4


class Call(Struct, frozen=True):
    """A command line as it was handed over; `files` are stdin, stdout, stderr and the directory."""

    program: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    umask: int
    files: Sequence[int]


def be_warm(programs: Programs, preload: Callable[[], None], lifeline: int, door: Door) -> None:
    """Wait for command lines at a door until there have been none for long enough.

    The caller is a process without threads that was forked for it. `preload` imports what has not been needed so far.
    `lifeline` is the read end of a pipe that lives as long as a mount; all files but these are closed.
    """
    lifeline, listening, lock = _keep_only(lifeline, door.listener.fileno(), door.lock)
    listener = socket.socket(fileno=listening)
    setproctitle("crfs: warm, for the next mount")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    gc.freeze()
    try:
        _Warm(programs, identity(), listener, [lifeline], [lock]).run(preload)
    finally:
        remove(door.path)
        remove(lock_path(door.path))


def _keep_only(*files: int) -> list[int]:
    """Close all files but the standard ones and these; what they are then."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _HIGH) for file in files]
    kept = [os.dup2(file, number, inheritable=False) for number, file in enumerate(high, 3)]
    os.closerange(3 + len(files), os.sysconf("SC_OPEN_MAX"))
    return kept


class _Warm(Struct):
    programs: Programs
    described: bytes
    listener: socket.socket
    # each is readable once a mount has ended
    lifelines: list[int]
    # what a child must not hold on to
    private: list[int]
    _poll: select.poll = field(default_factory=select.poll)

    def run(self, preload: Callable[[], None]) -> None:
        """Until it has been idle for long enough."""
        self._poll.register(self.listener, select.POLLIN)
        for lifeline in self.lifelines:
            self._poll.register(lifeline, 0)
        loaded = False
        while True:
            seconds = IDLE_SECONDS if not self.lifelines else None if loaded else _PRELOAD_AFTER
            events = self._poll.poll(None if seconds is None else seconds * 1000)
            if not events:
                if not self.lifelines:
                    return
                preload()
                loaded = True
                gc.freeze()
            for number, _ in events:
                if number == self.listener.fileno():
                    self._accept()
                else:
                    self._poll.unregister(number)
                    self.lifelines.remove(number)
                    os.close(number)

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(ANSWER_SECONDS)
            with contextlib.suppress(OSError, ValueError, EOFError):
                call = self._receive(connection)
                try:
                    connection.sendall(READY)
                    if connection.recv(1) == GO:
                        self._start(connection, call)
                finally:
                    for file in call.files:
                        os.close(file)

    def _receive(self, connection: socket.socket) -> Call:
        """ValueError where it is none of ours."""
        data, files, flags, _ = socket.recv_fds(connection, _MESSAGE_MAX, _FILES)
        count, umask = (number_from_bytes(data[at : at + NUMBER_BYTES]) for at in (0, NUMBER_BYTES))
        *fields, described = data[2 * NUMBER_BYTES :].split(b"\0")
        ours = peer_uid(connection) == os.geteuid() and described == self.described
        if not ours or flags or len(files) != _FILES or fields[0].decode() not in self.programs:
            for file in files:
                os.close(file)
            raise ValueError("not for us")
        program, *argv = map(os.fsdecode, fields[:count])
        pairs = (os.fsdecode(setting).partition("=") for setting in fields[count:])
        return Call(program, argv, {name: value for name, _, value in pairs}, umask, files)

    def _start(self, connection: socket.socket, call: Call) -> None:
        lifeline, held = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(lifeline)
            self._run_child(connection, call)
        os.close(held)
        self.lifelines.append(lifeline)
        self._poll.register(lifeline, 0)

    def _run_child(self, connection: socket.socket, call: Call) -> NoReturn:
        """What a fresh interpreter would do with the command line."""
        status, begun = 1, False
        try:
            self.listener.close()
            for number in (*self.lifelines, *self.private):
                os.close(number)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # the status is told also by who is ended
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, daemon.leave)
            _take_over(call)
            setproctitle(" ".join((call.program, *call.argv)))
            connection.settimeout(None)
            _end_with(connection)
            connection.sendall(number_to_bytes(os.getpid()))
            begun = True
            # what this process starts for others must not keep whoever waits for the status
            os.register_at_fork(after_in_child=connection.close)
            daemon.tell_status(lambda status: _tell(connection, status))
            status = _status(self.programs[call.program], call.argv)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            # a caller that has not been told who does it does it by itself, and would take a status for that
            if begun:
                with contextlib.suppress(OSError):
                    _tell(connection, status)
            os._exit(status)


def _tell(connection: socket.socket, status: int) -> None:
    """The caller ends with it, unless it was told before. OSError where it is gone."""
    if connection.fileno() >= 0:
        # it may be quicker than what comes next
        fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) & ~os.O_ASYNC)
        connection.sendall(number_to_bytes(status))
        connection.close()


def _end_with(connection: socket.socket) -> None:
    """Have the caller's end, which says nothing more, be a SIGTERM to this process."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC | fcntl.fcntl(connection, fcntl.F_GETFL))


def _take_over(call: Call) -> None:
    """Have its files, directory, mask and environment."""
    for number, file in enumerate(call.files[:3]):
        os.dup2(file, number)
    os.fchdir(call.files[3])
    for file in call.files:
        os.close(file)
    os.umask(call.umask)
    os.environ.clear()
    os.environ.update(call.environment)
    os.environ[DISABLE] = IS_WARM
    time.tzset()


def _status(program: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    try:
        return program(argv) & 0xFF
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
