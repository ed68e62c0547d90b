"""Numbers with units, as tables show them. Pure."""

from __future__ import annotations

from benches.stats import Summary

# of these units more is better; of all others less
MORE_IS_BETTER = {"MBps"}
_THINGS = {"bytes", "requests"}
_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "us": ((1e6, "s"), (1e3, "ms"), (1.0, "µs")),
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}
_NAMES = {"MBps": "MB/s", "requests": "", "processes": ""}


def quantity(value: float, unit: str) -> str:
    """`1.24 s`, `310 ms`, `8.1 MB`, `420 MB/s`: three digits and a unit."""
    scales = _SCALES.get(unit, ((1.0, _NAMES.get(unit, unit)),))
    factor, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    return f"{three_digits(value / factor)} {name}".strip()


def three_digits(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(summary: Summary, between: str = " ") -> str:
    """The median, and the least and the most beside it where there was more than one run."""
    median = quantity(summary.median, summary.unit)
    if len(summary.runs) == 1 or summary.min == summary.max:
        return median
    return (
        f"{median}{between}({quantity(summary.min, summary.unit)} to {quantity(summary.max, summary.unit)})"
    )


def label(measure: str) -> str:
    """A measure's name without its unit, unless that is a thing: `cold find` of cold_find_s, `again bytes`."""
    words, _, unit = measure.rpartition("_")
    return (measure if unit in _THINGS else words).replace("_", " ")


def ratio(value: float) -> str:
    """`0.12 x`."""
    return f"{three_digits(value)} ×"


def is_better(value: float, unit: str) -> bool:
    """Whether a ratio of crfs's number to another's is to crfs's credit."""
    return value > 1 if unit in MORE_IS_BETTER else value < 1
