"""Which of the bytes that will be wanted travel together. Pure."""

from collections.abc import Sequence

from msgspec import Struct

# one request: bytes that lie together with no larger gaps between them
RUN_MAX = 4 << 20
GAP_MAX = 128 << 10


class Span(Struct, frozen=True):
    """The member at [start, end) of the blob of `layer`: its number, or its digest. `chunk` is one that it holds."""

    layer: int | str
    start: int
    end: int
    chunk: int = -1


def plan_runs(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in the order of their need as runs that lie together in a blob; the run with the earliest comes first."""
    need: dict[tuple[int | str, int], int] = {}
    for number, span in enumerate(spans):
        need.setdefault((span.layer, span.start), number)
    runs: list[list[Span]] = []
    end = 0
    for span in sorted(spans, key=lambda span: (str(span.layer), span.start, span.chunk)):
        first = runs[-1][0] if runs else None
        joins = first is not None and span.layer == first.layer and span.start - end <= GAP_MAX
        if first is None or not joins or span.end - first.start > RUN_MAX:
            runs.append([])
            end = 0
        runs[-1].append(span)
        end = max(end, span.end)
    return sorted(runs, key=lambda run: min(need[span.layer, span.start] for span in run))
