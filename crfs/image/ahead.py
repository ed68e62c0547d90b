"""Chunks that will be wanted are fetched before anybody asks: in large requests, in the order of their need.

How many requests are under way at a time is the network's to say, which serves readers first. Fetch loop, but for
start().
"""

from collections import deque
from collections.abc import Callable, Sequence

from crfs._native.index import Tree
from crfs.blobs.network import Network
from crfs.image.chunks import ChunkLoader
from crfs.image.runs import Span, plan_runs
from crfs.layers.layer import Layer

# runs that are in flight, so that a reader finds them and hurries them on
_WIDTH = 64


class Ahead:
    """Fetches ahead into one loader."""

    def __init__(self, tree: Tree, layers: Sequence[Layer], loader: ChunkLoader, network: Network) -> None:
        self._tree = tree
        self._layers = layers
        self._loader = loader
        self._network = network

    def start(self, chunks: Sequence[int], then: Callable[[], None] = lambda: None) -> None:
        """Begin with chunks in the order of their need. What is here already costs no request.

        `then` is called on the fetch loop, where there is one, when all is done.
        """
        places = [self._tree.chunk(chunk) for chunk in dict.fromkeys(chunks)]
        spans = [
            Span(place.layer, place.blob_off, place.blob_end, place.id)
            for place in places
            if self._layers[place.layer].lazy and not self._loader.has(place.id)
        ]
        runs = deque(plan_runs(spans))
        left = [min(_WIDTH, len(runs))]
        for _ in range(left[0]):
            self._network.submit(self._work(runs, left, then))
        if not spans:
            self._network.call(then)

    async def _work(self, runs: deque[list[Span]], left: list[int], then: Callable[[], None]) -> None:
        """Until nothing is left, or nobody answers: then readers find out by themselves."""
        try:
            while runs and await self._loader.fetch_ahead([span.chunk for span in runs.popleft()]):
                pass
        finally:
            left[0] -= 1
            if not left[0]:
                then()
