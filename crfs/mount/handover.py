"""Have a warm process run a command line, if there is one that may (crfs.mount.warm).

It may if it has the same identity: whatever a process inherits, or finds at its start, and could change what the
command does. Then our files, directory, environment and umask are sent to it, over a socket in the runtime
directory. The first messages decide: once we have said GO, and been told which process it is, it is that one's job.

A command that is handed over is as quick as this is loaded: nothing is imported here that takes longer than to do
without it, such as socket and signal for what they add to _socket and _signal.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys
import time
from _collections_abc import Iterator, Sequence

from crfs.blobs.runtimeplace import runtime_place
from crfs.mount.door import Door, open_door

DISABLE = "CRFS_NO_SERVER"
# its value in what a warm process runs
IS_WARM = "warm"
READY, GO = b"R", b"G"
# a warm process answers at once or is of no use
ANSWER_SECONDS = 2.0
# somebody who holds a door's lock listens there within a moment
_LOOK_SECONDS = 0.002
_LOOKS = 50
# what the head of a request says: how many words the command line has, and the umask; and what else is sent
NUMBER_BYTES = 4
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_FILES = ("/proc/self/cgroup", "/proc/self/limits", "/proc/self/attr/current", "/proc/self/oom_score_adj")
_STATUS = (b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp:", b"Cpus_allowed:", b"Mems_allowed:")
# these are read when an interpreter or a library starts
_ENVIRONMENT = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OPENSSL_")
# what is added up by it fills one digit of Python's, so that it is quick
_PRIME = (1 << 30) - 35


_identity: bytes | None = None


def identity() -> bytes:
    """Everything that two processes must have in common for one to do the other's work, as first asked for."""
    global _identity
    if _identity is None:
        _identity = _find_identity()
    return _identity


def _find_identity() -> bytes:
    package = os.path.dirname(os.path.dirname(__file__))
    root = os.stat("/")
    parts = [sys.executable.encode(), package.encode(), b"%d %d" % (root.st_dev, root.st_ino)]
    parts += [os.readlink(f"/proc/self/ns/{name}").encode() for name in _NAMESPACES]
    parts += [_content(name) for name in _FILES]
    parts += [line for line in _content("/proc/self/status").split(b"\n") if line.startswith(_STATUS)]
    parts += sorted(
        _setting(name, value) for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)
    )
    parts += [b"%s %d" % item for item in sorted(_code(package))]
    return b"\n".join(parts)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            # security labels end with NUL, which ends a field of what is sent
            return file.read().replace(b"\0", b"")
    except OSError:
        return b""


def _setting(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}")


def _code(directory: str) -> Iterator[tuple[bytes, int]]:
    """Each file of the package and when it was changed."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith((".py", ".so")):
                yield os.fsencode(entry.path), entry.stat().st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir(follow_symlinks=False):
                yield from _code(entry.path)


def socket_path(described: bytes) -> str:
    """Where the warm process of an identity listens."""
    return f"{runtime_place()}/warm-{int.from_bytes(described, 'little') % _PRIME:08x}.sock"


def hand_over(program: str, argv: Sequence[str]) -> int | None:
    """Have a warm process run the command line with our files, directory and environment.

    Its exit status, or None where there is no warm process: then nothing has been done, but that one may be left by us
    (take_door).
    """
    if os.environ.get(DISABLE):
        return None
    try:
        described = identity()
        connection = _connect(socket_path(described))
    except OSError:
        return None
    if connection is None:
        return None
    try:
        _request(connection, described, program, argv)
        return _outcome(connection)
    except (OSError, EOFError):
        return None
    finally:
        connection.close()


_door: Door | None = None


def take_door() -> Door | None:
    """Where a warm process is to listen: the caller's from now on. Those who find it wait for that."""
    global _door
    door, _door = _door, None
    return door


def _connect(path: str) -> _socket.socket | None:
    """To a warm process, or one that is about to be; None where it is to be ours, or there is none. OSError."""
    global _door
    for _ in range(_LOOKS):
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(path)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
        _door = open_door(path)
        if _door is not None:
            return None
        time.sleep(_LOOK_SECONDS)
    return None


def _request(connection: _socket.socket, described: bytes, program: str, argv: Sequence[str]) -> None:
    """Say what is to be run, until the other side is ready for it. EOFError where it won't."""
    if peer_uid(connection) != os.geteuid():
        raise EOFError
    environment = [_setting(name, value) for name, value in os.environ.items()]
    words = [os.fsencode(word) for word in (program, *argv)]
    message = b"\0".join([*words, *environment, described])
    umask = os.umask(0o077)
    os.umask(umask)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files = b"".join(map(number_to_bytes, (0, 1, 2, here)))
        head = number_to_bytes(len(words)) + number_to_bytes(umask)
        connection.sendmsg([head, message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
    finally:
        os.close(here)
    if connection.recv(1) != READY:
        raise EOFError


def number_to_bytes(number: int) -> bytes:
    """A number as it is sent, which is how a C int lies in memory."""
    return number.to_bytes(NUMBER_BYTES, sys.byteorder)


def number_from_bytes(data: bytes) -> int:
    """The other way. EOFError where it was not all received."""
    if len(data) != NUMBER_BYTES:
        raise EOFError
    return int.from_bytes(data, sys.byteorder)


def peer_uid(connection: _socket.socket) -> int:
    """Who is at the other end."""
    # struct ucred: pid, uid, gid
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * NUMBER_BYTES)
    return number_from_bytes(credentials[NUMBER_BYTES : 2 * NUMBER_BYTES])


def _outcome(connection: _socket.socket) -> int:
    """Have it begin, and wait for the status; signals to us are passed on. EOFError where it has not begun."""
    passed_on = _PassedOn()
    try:
        connection.sendall(GO)
        return _await_status(connection, passed_on)
    finally:
        passed_on.end()


def _await_status(connection: _socket.socket, passed_on: "_PassedOn") -> int:
    """A process that has begun and is gone without one has failed."""
    connection.settimeout(None)
    passed_on.to(number_from_bytes(connection.recv(NUMBER_BYTES)))
    try:
        return number_from_bytes(connection.recv(NUMBER_BYTES))
    except (OSError, EOFError):
        return 1


class _PassedOn:
    """Signals to us, from now on: they are kept until it is known which process they are for."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._pid: int | None = None
        numbers = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
        self._before = [(number, _signal.signal(number, self._take)) for number in numbers]

    def to(self, pid: int) -> None:
        self._pid = pid
        for number in self._kept:
            self._send(number, pid)

    def end(self) -> None:
        """Have them handled as before, also those that were for nobody."""
        for number, handler in self._before:
            _signal.signal(number, handler)
        if self._pid is None:
            for number in self._kept:
                os.kill(os.getpid(), number)

    def _take(self, number: int, _frame: object) -> None:
        if self._pid is None:
            self._kept.append(number)
        else:
            self._send(number, self._pid)

    def _send(self, number: int, pid: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            # it has just ended, and its status is on its way
            return
