"""A link between a client and a server on the loopback: counts what crosses it, and can be long and thin.

It runs in a process of its own and moves the answers with splice(2), so that it costs the measured
programs little. What is counted are connections, HTTP requests, and bytes each way, headers included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

_PIECE = 1 << 18
_REQUEST = re.compile(rb"^([A-Z]+ \S+) HTTP/1\.[01]\r?\n(?:.*?^range: *(\S+))?", re.M | re.S | re.I)

Carry = Callable[[socket.socket, socket.socket], None]


@dataclass(slots=True)
class Counts:
    """What crossed a link since the last look. `requests` are lines like `GET /v2/x bytes=0-9`."""

    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    requests: list[str] = field(default_factory=list)


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
        return Counts(**json.loads(self._ask("take")))

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def link(to_port: int, *, round_trip: float = 0.0, rate: float = 0.0) -> Iterator[Link]:
    """A link to 127.0.0.1:`to_port` until the block ends.

    `round_trip` seconds are added to every request; `rate` is the most bytes a second of all answers
    together, 0 for as many as there are.
    """
    root = str(Path(__file__).resolve().parent.parent)
    argv = [sys.executable, "-m", "benches.link", str(to_port), str(round_trip), str(rate)]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert process.stdout is not None
        yield Link(process, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.communicate()


class _Carrier:
    """Accepts connections and carries each with two threads."""

    def __init__(self, to_port: int, round_trip: float, rate: float) -> None:
        self._to_port = to_port
        self._round_trip = round_trip
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._counts = Counts()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def take(self) -> Counts:
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts

    def accept_forever(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with self._lock:
            self._counts.connections += 1
        with client, socket.create_connection(("127.0.0.1", self._to_port)) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up = threading.Thread(target=_until_closed, args=(self._carry_up, client, server), daemon=True)
            up.start()
            _until_closed(self._carry_down, server, client)
            up.join()

    def _carry_up(self, client: socket.socket, server: socket.socket) -> None:
        while piece := client.recv(_PIECE):
            time.sleep(self._round_trip)
            with self._lock:
                self._counts.bytes_up += len(piece)
                self._counts.requests += _requests(piece)
            server.sendall(piece)

    def _carry_down(self, server: socket.socket, client: socket.socket) -> None:
        receive, send = os.pipe()
        try:
            while size := os.splice(server.fileno(), send, _PIECE):
                with self._lock:
                    self._counts.bytes_down += size
                self._slow_down(size)
                while size:
                    size -= os.splice(receive, client.fileno(), size)
        finally:
            os.close(receive)
            os.close(send)

    def _slow_down(self, size: int) -> None:
        """Sleep until the link, shared by all connections, has had the time to carry `size` bytes."""
        if not self._rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate
            wait = self._free_at - time.monotonic()
        time.sleep(max(wait, 0.0))


def _until_closed(carry: Carry, source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        carry(source, target)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _requests(piece: bytes) -> list[str]:
    """The requests that begin in a piece, with the ranges they ask for."""
    return [b" ".join(filter(None, match.groups())).decode() for match in _REQUEST.finditer(piece)]


def main(argv: Sequence[str] | None = None) -> None:
    """Carry until killed; each line of standard input is answered with the counts so far."""
    parser = argparse.ArgumentParser(prog="python -m benches.link")
    parser.add_argument("to_port", type=int)
    parser.add_argument("round_trip", type=float)
    parser.add_argument("rate", type=float)
    options = parser.parse_args(argv)
    carrier = _Carrier(options.to_port, options.round_trip, options.rate)
    threading.Thread(target=carrier.accept_forever, daemon=True).start()
    print(carrier.listener.getsockname()[1], flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(carrier.take())), flush=True)


if __name__ == "__main__":
    main()
