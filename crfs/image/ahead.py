"""Chunks that will be wanted are fetched before anybody asks: in large requests, in the order of their need.

A few requests are under way at a time, so that a reader never waits behind many. Fetch loop, but for start().
"""

from collections import deque
from collections.abc import Sequence

from crfs._native.index import Tree
from crfs.blobs.network import Network
from crfs.image.chunks import ChunkLoader
from crfs.layers.layer import Layer

# one request: bytes that lie together with no larger gaps between them
RUN_MAX = 1 << 20
GAP_MAX = 32 << 10
_WIDTH = 4


def plan_runs(tree: Tree, layers: Sequence[Layer], chunks: Sequence[int]) -> list[list[int]]:
    """Chunks of lazy layers as runs that lie together in a blob; the run with the earliest chunk comes first."""
    need = {chunk: number for number, chunk in enumerate(chunks)}
    places = [tree.chunk(chunk) for chunk in need]
    lazy = sorted(
        (place for place in places if layers[place.layer].lazy), key=lambda at: (at.layer, at.blob_off, at.id)
    )
    runs: list[list[int]] = []
    layer, start, end = -1, 0, 0
    for place in lazy:
        joins = place.layer == layer and place.blob_off - end <= GAP_MAX and place.blob_end - start <= RUN_MAX
        if not joins:
            runs.append([])
            layer, start = place.layer, place.blob_off
        runs[-1].append(place.id)
        end = place.blob_end
    return sorted(runs, key=lambda run: min(need[chunk] for chunk in run))


class Ahead:
    """Fetches ahead into one loader."""

    def __init__(self, tree: Tree, layers: Sequence[Layer], loader: ChunkLoader, network: Network) -> None:
        self._tree = tree
        self._layers = layers
        self._loader = loader
        self._network = network

    def start(self, chunks: Sequence[int]) -> None:
        """Begin with chunks in the order of their need. What is here already costs no request."""
        missing = [chunk for chunk in chunks if not self._loader.has(chunk)]
        runs = deque(plan_runs(self._tree, self._layers, missing))
        for _ in range(min(_WIDTH, len(runs))):
            self._network.submit(self._work(runs))

    async def _work(self, runs: deque[list[int]]) -> None:
        """Until nothing is left, or nobody answers: then readers find out by themselves."""
        while runs and await self._loader.fetch_ahead(runs.popleft()):
            pass
