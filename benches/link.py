"""A link between a client on the loopback and a server: counts what crosses it, and can be long and thin.

It runs in a process of its own and moves the answers with splice(2), so that it costs the measured
programs little. What is counted are connections, HTTP requests, and bytes each way, headers included;
of a server that speaks TLS, bytes and connections only. A long link's round trip is spent once for a
connection's handshake and once for each request; a thin one is shared by all its connections. How TCP
begins slowly is not imitated.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

_PIECE = 1 << 18
_REQUEST = re.compile(rb"^([A-Z]+ \S+) HTTP/1\.[01]\r?\n(?:.*?^range: *(\S+))?", re.M | re.S | re.I)


@dataclass(slots=True)
class Fetch:
    """A request, `GET /v2/x bytes=0-9`, and its answer, in time.monotonic() of when it was seen to cross."""

    request: str
    connection: int
    begun: float
    first: float = 0.0
    last: float = 0.0
    size: int = 0


@dataclass(slots=True)
class Counts:
    """What crossed a link since the last look."""

    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    fetches: list[Fetch] = field(default_factory=list)

    @property
    def requests(self) -> list[str]:
        """Lines like `GET /v2/x bytes=0-9`."""
        return [fetch.request for fetch in self.fetches]


@dataclass(frozen=True, slots=True)
class Shape:
    """Bytes a second, 0 for as many as there are, and seconds of a round trip."""

    name: str
    rate: float = 0.0
    round_trip: float = 0.0

    def __str__(self) -> str:
        if not (self.rate or self.round_trip):
            return self.name
        return f"{self.rate * 8 / 1e6:g} Mbit/s, {self.round_trip * 1e3:g} ms"


LOOPBACK = Shape("loopback")
WAN = Shape("wan", rate=25e6, round_trip=0.015)


class Pace:
    """When what is handed over at a time has crossed. Pure, and not for two threads at once."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._free_at = 0.0

    def request_due(self, accepted: float, now: float) -> float:
        """For the server: a round trip after it was sent, which was no sooner than the handshake's end.

        The kernel answers a client's handshake by itself, so that what the client sends at once is early.
        """
        return max(now, accepted + self._shape.round_trip) + self._shape.round_trip

    def answer_due(self, size: int, arrived: float) -> float:
        """For the client: when all that was handed over before has crossed, and then this.

        `arrived` may be in the past: what waited while a sleep took too long catches up.
        """
        if not self._shape.rate:
            return arrived
        self._free_at = max(self._free_at, arrived) + size / self._shape.rate
        return self._free_at


class Link:
    """A link that another process carries. Any thread, one at a time."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def take(self) -> Counts:
        """What crossed since the last call."""
        return msgspec.json.decode(self._ask("take"), type=Counts)

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        if not (said := self._process.stdout.readline()):
            raise BrokenPipeError("the link has ended")
        return said


@contextmanager
def link(to_port: int, shape: Shape = LOOPBACK, *, to_host: str = "127.0.0.1") -> Iterator[Link]:
    """A link to a server until the block ends."""
    root = str(Path(__file__).resolve().parent.parent)
    argv = [sys.executable, "-m", "benches.link", to_host, str(to_port)]
    process = subprocess.Popen(
        [*argv, str(shape.rate), str(shape.round_trip)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield Link(process, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate()


class _Carrier:
    """Accepts connections and carries each with two threads."""

    def __init__(self, address: tuple[str, int], shape: Shape) -> None:
        # resolved now, since the first time loads a codec, which would be some connection's loss
        self._address = socket.getaddrinfo(*address, socket.AF_INET, socket.SOCK_STREAM)[0][4]
        self._pace = Pace(shape)
        self._lock = threading.Lock()
        self._counts = Counts()
        self._numbers = itertools.count()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def take(self) -> bytes:
        """The counts as JSON. A fetch that is under way is told as it is now, and not again."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
            return msgspec.json.encode(counts)

    def accept_forever(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._carry, args=(client, time.monotonic()), daemon=True).start()

    def _carry(self, client: socket.socket, accepted: float) -> None:
        with self._lock:
            self._counts.connections += 1
        # a server that is gone is for the client to complain of: its connection is closed
        with contextlib.suppress(OSError), client, socket.socket() as server:
            server.connect(self._address)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, server, accepted, next(self._numbers))
            up = threading.Thread(target=_until_closed, args=(self._carry_up, line, server), daemon=True)
            up.start()
            _until_closed(self._carry_down, line, client)
            up.join()

    def _carry_up(self, line: _Line) -> None:
        while piece := line.client.recv(_PIECE):
            now = time.monotonic()
            with self._lock:
                self._counts.bytes_up += len(piece)
                for request in _requests(piece):
                    line.fetch = Fetch(request, line.number, now)
                    self._counts.fetches.append(line.fetch)
                due = self._pace.request_due(line.accepted, now)
            _sleep_until(due)
            line.server.sendall(piece)

    def _carry_down(self, line: _Line) -> None:
        receive, send = os.pipe()
        taken = time.monotonic()
        try:
            while True:
                waited = _is_readable(line.server)
                size = os.splice(line.server.fileno(), send, _PIECE)
                if not size:
                    return
                before, taken = taken, time.monotonic()
                with self._lock:
                    due = self._pace.answer_due(size, before if waited else taken)
                _sleep_until(due)
                with self._lock:
                    self._counts.bytes_down += size
                    line.note(size, time.monotonic())
                while size:
                    size -= os.splice(receive, line.client.fileno(), size)
        finally:
            os.close(receive)
            os.close(send)


@dataclass(slots=True)
class _Line:
    """One connection, and its newest request."""

    client: socket.socket
    server: socket.socket
    accepted: float
    number: int
    fetch: Fetch | None = None

    def note(self, size: int, now: float) -> None:
        """Bytes of the answer went to the client."""
        if self.fetch is not None:
            self.fetch.first = self.fetch.first or now
            self.fetch.last = now
            self.fetch.size += size


def _is_readable(source: socket.socket) -> bool:
    try:
        source.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def _sleep_until(due: float) -> None:
    if (wait := due - time.monotonic()) > 0:
        time.sleep(wait)


def _until_closed(carry: Callable[[_Line], None], line: _Line, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        carry(line)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _requests(piece: bytes) -> list[str]:
    """The requests that begin in a piece, with the ranges they ask for."""
    return [b" ".join(filter(None, match.groups())).decode() for match in _REQUEST.finditer(piece)]


def main(argv: Sequence[str] | None = None) -> None:
    """Carry until killed; each line of standard input is answered with the counts so far."""
    parser = argparse.ArgumentParser(prog="python -m benches.link")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("round_trip", type=float)
    options = parser.parse_args(argv)
    shape = Shape("", options.rate, options.round_trip)
    carrier = _Carrier((options.host, options.port), shape)
    threading.Thread(target=carrier.accept_forever, daemon=True).start()
    print(carrier.listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        sys.stdout.write(carrier.take().decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
