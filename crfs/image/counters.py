"""What the readers of an image have had: bytes that were here, bytes and time that they waited for. Any thread."""

import bisect
import threading
from collections.abc import Sequence

from msgspec import Struct

# upper bounds in seconds, as Prometheus has them; what waited longer counts in none
STALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counted(Struct, frozen=True):
    """At one moment. Per layer: bytes that were here, and that were waited for; per bound, and beyond: stalls."""

    cached: Sequence[int]
    waited: Sequence[int]
    stalls: Sequence[int]
    stalled_seconds: float


class Counters:
    """Counts for one image of `layers` layers."""

    def __init__(self, layers: int) -> None:
        self._lock = threading.Lock()
        self._cached = [0] * layers
        self._waited = [0] * layers
        self._stalls = [0] * (len(STALL_SECONDS) + 1)
        self._seconds = 0.0

    def cached(self, layer: int, size: int) -> None:
        """A reader got bytes that were here, in memory or on the disk."""
        with self._lock:
            self._cached[layer] += size

    def stalled(self, layer: int, size: int, seconds: float) -> None:
        """A reader has waited for bytes (none, where they did not come)."""
        with self._lock:
            self._waited[layer] += size
            self._stalls[bisect.bisect_left(STALL_SECONDS, seconds)] += 1
            self._seconds += seconds

    def now(self) -> Counted:
        """All of it at one moment."""
        with self._lock:
            return Counted(tuple(self._cached), tuple(self._waited), tuple(self._stalls), self._seconds)
