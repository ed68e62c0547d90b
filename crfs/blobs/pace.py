"""How quickly a registry answers, measured from what is fetched anyway. Fetch loop only, no I/O."""

# until something was measured: a registry nearby
_ROUND_TRIP, _RATE = 1 / 512, float(16 << 20)
# a transfer of less says more about the round trip than about the rate
_SIZE_MIN = 128 << 10
# of the newest measurement in the mean
_WEIGHT = 0.25


class Pace:
    """`round_trip`: seconds from a request to its answer's first byte; `rate`: bytes a second of one connection."""

    def __init__(self) -> None:
        self.round_trip = _ROUND_TRIP
        self.rate = _RATE
        self._answers = self._transfers = 0

    def answered(self, seconds: float) -> None:
        """A request's first bytes have come. The first measurement counts alone, later ones in their mean."""
        weight = max(_WEIGHT, 1 / (1 + self._answers))
        self._answers += 1
        self.round_trip += weight * (seconds - self.round_trip)

    def transferred(self, size: int, seconds: float) -> None:
        """What came behind the first bytes of an answer."""
        if size < _SIZE_MIN or seconds <= 0:
            return
        weight = max(_WEIGHT, 1 / (1 + self._transfers))
        self._transfers += 1
        self.rate += weight * (size / seconds - self.rate)

    @property
    def gap(self) -> int:
        """As many bytes as come in the time of a round trip: to read and drop fewer is cheaper than to ask again."""
        return int(self.rate * self.round_trip)
