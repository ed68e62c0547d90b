"""Processes that take steps for a test, each with a mount as its root, so that a mount that hangs hangs no test.

    with hands() as all_hands:
        hand = all_hands.hand(mountpoint)
        answers = hand.call(Mkdir(b"a"), Stat(b"a"))
        hand.close()

A process that does nothing but this forks them, so they are cheap, and share nothing with the test. One thread.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import tests
from tests.support.compare import compare_trees
from tests.support.fsops import Place, Step, run_step

_SECONDS = 30.0
_UMASK = 0o022


class HandLost(AssertionError):
    """The process died, or a step never came back."""


@dataclass(frozen=True, slots=True)
class _Order:
    """How a hand begins. Without a root it stays in that of the test. `kinds` only come to be imported before."""

    root: Path | None
    numbered: bool
    counted: bool
    since_ns: int
    kinds: Sequence[type[Step]]


class Hand:
    """A process that takes steps."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._process = os.pidfd_open(connection.recv())

    def call(self, *steps: Step, seconds: float = _SECONDS) -> list[object]:
        """The answers of some steps; HandLost if they do not come."""
        self.start(*steps)
        return self.answers(seconds)

    def start(self, *steps: Step) -> None:
        """Have some steps taken, and do not wait for their `answers`."""
        with _life():
            self._connection.send(steps)

    def answers(self, seconds: float = _SECONDS) -> list[object]:
        """Those of the steps that were started."""
        with _life():
            if not self._connection.poll(seconds):
                raise HandLost(f"no answer in {seconds} s")
            found: list[object] = self._connection.recv()
        return found

    def close(self) -> None:
        """End it, however stuck; it holds no file, and no mount by its root, then."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        # not its connection: that is closed before its other files and its root are let go
        select.select([self._process], [], [], _SECONDS)
        os.close(self._process)
        self._connection.close()


@contextlib.contextmanager
def _life() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise HandLost("the process that called has died") from error


class Hands:
    """The process that forks them."""

    def __init__(self) -> None:
        # what is modified from here on is modified now
        self._since_ns = time.time_ns() - 10**9
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.t6_mount.overlay.hand", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(tests.__file__).parents[1],
            )

    def hand(
        self,
        root: Path | None,
        *,
        numbered: bool = True,
        counted: bool = True,
        kinds: Sequence[type[Step]] = (),
    ) -> Hand:
        """A new one; chroot(2)s into `root`. See `Place` for the rest. `kinds` of steps it knows beside those."""
        ours, theirs = socket.socketpair()
        with theirs:
            order = pickle.dumps(_Order(root, numbered, counted, self._since_ns, kinds))
            socket.send_fds(self._socket, [order], [theirs.fileno()])
            self._socket.recv(1)
        return Hand(Connection(ours.detach()))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(_SECONDS)


@contextlib.contextmanager
def hands() -> Iterator[Hands]:
    """A source of hands, gone afterwards."""
    found = Hands()
    try:
        yield found
    finally:
        found.close()


@dataclass(frozen=True, slots=True, repr=False)
class Compare(Step):
    """`compare_trees` with the paths of a hand that has no root of its own.

    Times of now are as good as each other, link counts of directories nobody's business, and those of files only
    where they are `counted`.
    """

    mount: Path
    oracle: Path
    counted: bool = True

    def run(self, place: Place) -> object:
        left, right = _statuses(self.mount), _statuses(self.oracle)
        both = left.keys() & right.keys()
        recent = {path for path in both if _recent(left[path], place) and _recent(right[path], place)}
        found = compare_trees(self.mount, self.oracle, untimed=recent)
        uncounted = {path for path in both if stat.S_ISDIR(left[path].st_mode) or not self.counted}
        passed = tuple(f"{path!r} nlink: " for path in uncounted)
        return [line for line in found if not line.startswith(passed)]


def _statuses(root: Path) -> dict[bytes, os.stat_result]:
    """What lstat says of the root, which is `.`, and of all below."""
    top = os.fsencode(root)
    found = {b".": os.lstat(top)}
    for directory, names, files in os.walk(top):
        paths = [os.path.join(directory, name) for name in names + files]
        found |= {os.path.relpath(path, top): os.lstat(path) for path in paths}
    return found


def _recent(status: os.stat_result, place: Place) -> bool:
    return place.when(status.st_mtime_ns) == "now"


def _serve(connection: Connection, order: _Order) -> None:
    """The life of a hand."""
    connection.send(os.getpid())
    os.umask(_UMASK)
    if order.root is not None:
        os.chroot(order.root)
        os.chdir("/")
    place = Place(order.numbered, order.counted, order.since_ns)
    while True:
        try:
            steps: Sequence[Step] = connection.recv()
        except (EOFError, ConnectionError):
            return
        connection.send([run_step(step, place) for step in steps])


def _main(ours: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, (theirs,), _, _ = _received(ours)
        if order is None:
            return
        if os.fork() == 0:
            ours.close()
            _serve(Connection(theirs), order)
            os._exit(0)
        os.close(theirs)
        ours.send(b".")


def _received(ours: socket.socket) -> tuple[_Order | None, list[int], int, object]:
    data, descriptors, flags, address = socket.recv_fds(ours, 1 << 16, 1)
    return (pickle.loads(data) if data else None), descriptors or [-1], flags, address


if __name__ == "__main__":
    # pickled steps name their module: it must be this one, and not `__main__`
    from tests.t6_mount.overlay import hand

    hand._main(socket.socket(fileno=int(sys.argv[1])))
