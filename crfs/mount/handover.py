"""A command line is handed over to a warm process that has everything imported, and is run there.

What the two sides share, and the side that hands over. Imports next to nothing, since that is the point. What a
process inherits and can't set for itself (namespaces, limits, capabilities, cgroup, the code of crfs) is its
identity: only a warm process of the same one is good enough.
"""

import binascii
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from crfs.blobs.directories import runtime_directory

DISABLE = "CRFS_NO_SERVER"
HEADER = struct.Struct("<II")
PID = struct.Struct("<i")
STATUS = struct.Struct("<B")
READY, GO = b"R", b"G"
# a warm process answers at once or is of no use
ANSWER_SECONDS = 2.0
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_FILES = ("/proc/self/cgroup", "/proc/self/limits", "/proc/self/attr/current", "/proc/self/oom_score_adj")
_STATUS = (b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp:", b"Cpus_allowed:", b"Mems_allowed:")
# these are read when an interpreter or a library starts
_ENVIRONMENT = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OPENSSL_")


def identity() -> bytes:
    """Everything that two processes must have in common for one to do the other's work."""
    package = Path(__file__).parent.parent
    root = os.stat("/")
    parts = [sys.executable.encode(), str(package).encode(), b"%d %d" % (root.st_dev, root.st_ino)]
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
        # security labels end with NUL, which ends a field of what is sent
        return Path(path).read_bytes().replace(b"\0", b"")
    except OSError:
        return b""


def _setting(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}")


def _code(directory: str | Path) -> Iterator[tuple[bytes, int]]:
    """Each file of the package and when it was changed."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _code(entry.path)
            elif entry.name.endswith((".py", ".so")):
                yield os.fsencode(entry.path), entry.stat().st_mtime_ns


def socket_path(described: bytes) -> Path:
    """Where the warm process of an identity listens."""
    return runtime_directory() / f"warm-{binascii.crc32(described):08x}.sock"


def hand_over(program: str, argv: Sequence[str]) -> int | None:
    """Have a warm process run the command line with our files, directory and environment.

    Its exit status, or None where there is no warm process: then nothing has been done.
    """
    if os.environ.get(DISABLE):
        return None
    try:
        described = identity()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(os.fspath(socket_path(described)))
            _request(connection, described, program, argv)
            connection.sendall(GO)
            return _outcome(connection)
    except (OSError, EOFError):
        return None


def _request(connection: socket.socket, described: bytes, program: str, argv: Sequence[str]) -> None:
    """Say what is to be run, until the other side is ready for it. EOFError where it won't."""
    if peer_uid(connection) != os.geteuid():
        raise EOFError
    environment = [_setting(name, value) for name, value in os.environ.items()]
    words = [os.fsencode(word) for word in (program, *argv)]
    message = b"\0".join([*words, *environment, described])
    umask = os.umask(0o077)
    os.umask(umask)
    header = HEADER.pack(len(words), umask)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        socket.send_fds(connection, [header + message], [0, 1, 2, here])
    finally:
        os.close(here)
    if connection.recv(1) != READY:
        raise EOFError


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _outcome(connection: socket.socket) -> int:
    """Wait for the status; signals to us are passed on. A process that is gone without one has failed."""
    connection.settimeout(None)
    try:
        (pid,) = PID.unpack(connection.recv(PID.size))
        with _passed_on(pid):
            return int(STATUS.unpack(connection.recv(STATUS.size))[0])
    except (OSError, struct.error):
        return 1


@contextlib.contextmanager
def _passed_on(pid: int) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
