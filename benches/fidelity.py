"""Does a link do what it is told? One download and some first bytes through it, from a server of our own."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benches.link import Shape, link

_DOWNLOAD = 50_000_000
_PINGS = 11
_RATE_TOLERANCE = 0.05
_ROUND_TRIP_TOLERANCE = 0.002
_HEAD = b"GET /%d HTTP/1.1\r\n\r\n"


class Fidelity(msgspec.Struct, frozen=True):
    """What was set and what was measured: bytes a second, and seconds until an answer's first byte.

    `connect_s` is the same on a new connection, where two round trips are due. 0 is set where nothing is.
    """

    rate_set: float
    rate: float
    round_trip_set: float
    round_trip_s: float
    connect_s: float

    def faults(self) -> list[str]:
        """What is further from its setting than it may be."""
        found = []
        if self.rate_set and abs(self.rate / self.rate_set - 1) > _RATE_TOLERANCE:
            found.append(f"{self.rate * 8 / 1e6:.1f} Mbit/s instead of {self.rate_set * 8 / 1e6:g}")
        for what, measured, trips in (("", self.round_trip_s, 1), (" after connecting", self.connect_s, 2)):
            if abs(measured - trips * self.round_trip_set) > _ROUND_TRIP_TOLERANCE:
                wanted = trips * self.round_trip_set * 1e3
                found.append(f"first byte{what} at {measured * 1e3:.1f} ms instead of {wanted:g}")
        return found

    def __str__(self) -> str:
        return f"{self.rate * 8 / 1e6:.1f} Mbit/s, first byte at {self.round_trip_s * 1e3:.1f} ms"


def measure(shape: Shape) -> Fidelity:
    """Download 50 MB through a link of the shape, and ask for one byte some times."""
    with _server() as port, link(port, shape) as shaped:
        connects = [_connect_and_ask(shaped.port) for _ in range(_PINGS)]
        with socket.create_connection(("127.0.0.1", shaped.port)) as connection:
            trips = [_ask(connection, 1) for _ in range(_PINGS + 1)][1:]
            took = _ask(connection, _DOWNLOAD) - (shape.round_trip if shape.rate else 0)
    trip, connect = statistics.median(trips), statistics.median(connects)
    return Fidelity(shape.rate, _DOWNLOAD / took, shape.round_trip, trip, connect)


def _connect_and_ask(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return _ask(connection, 1)


def _ask(connection: socket.socket, size: int) -> float:
    """Seconds until an answer of so many bytes has come."""
    buffer = bytearray(1 << 18)
    begun = time.perf_counter()
    connection.sendall(_HEAD % size)
    while size:
        size -= connection.recv_into(buffer, min(size, len(buffer)))
    return time.perf_counter() - begun


@contextmanager
def _server() -> Iterator[int]:
    """Answers each request with as many bytes as its path says; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    zeros = bytes(1 << 20)
    with connection, contextlib.suppress(OSError):
        while request := connection.recv(4096):
            size = int(request.split(b" ")[1][1:])
            while size:
                piece = min(size, len(zeros))
                connection.sendall(zeros[:piece])
                size -= piece
