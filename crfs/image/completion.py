"""The rest of an image, fetched while nobody reads: after it, the registry is not needed any more.

A thread of its own, from start() to stop(). It begins once no reader has waited for a while, lets the others of the
machine who complete the same image do it, and stands still whenever a reader waits.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from crfs._native.index import Chunk, Tree
from crfs.blobs.claims import Claim
from crfs.blobs.threads import leave_signals
from crfs.image.chunks import ChunkLoader
from crfs.layers.layer import Layer

log = logging.getLogger(__name__)
# a program that starts reads something new every few seconds at the least: until it has not for so long, what it
# reads next comes first, and nothing is fetched that a short-lived mount would never need
QUIET_SECONDS = 10.0
# after a reader had to wait in between
PAUSE_SECONDS = 1.0
# before what failed, or what another process does, is looked at again
RETRY_SECONDS = 60.0
# one request
RUN_MAX = 1 << 20
_STRETCH = 256

# says that this process completes the image; None where another one does
TryClaim = Callable[[], Claim | None]


class Completion:
    """Completes one image. `rate`: bytes of blobs per second at most, or None."""

    def __init__(
        self,
        tree: Tree,
        layers: Sequence[Layer],
        loader: ChunkLoader,
        try_claim: TryClaim,
        rate: float | None,
    ) -> None:
        self._tree = tree
        self._layers = layers
        self._loader = loader
        self._try_claim = try_claim
        self._rate = rate
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crfs-rest", daemon=True)

    def start(self) -> None:
        """Begin, some time later."""
        self._thread.start()

    def stop(self) -> None:
        """End, whatever is left; the loader must have been stopped before."""
        self._stopped.set()
        self._thread.join(5)

    def _run(self) -> None:
        leave_signals()
        try:
            while not self._await_quiet(time.monotonic(), QUIET_SECONDS):
                claim = self._try_claim()
                if claim is not None:
                    try:
                        if self._complete():
                            return
                    finally:
                        claim.release()
                if self._stopped.wait(RETRY_SECONDS):
                    return
        except Exception:
            log.exception("the image is not completed in the background")

    def _await_quiet(self, since: float, seconds: float) -> bool:
        """Until no reader has had to wait for so long, since then at the least; True where it is over."""
        while True:
            left = max(since, self._loader.missed) + seconds - time.monotonic()
            if left <= 0:
                return self._stopped.is_set()
            if self._stopped.wait(left):
                return True

    def _complete(self) -> bool:
        """Once through the image; False where something is still missing, or it is over."""
        whole = True
        for run in self._iter_runs():
            if self._await_quiet(0.0, PAUSE_SECONDS):
                return False
            began = time.monotonic()
            if not self._loader.load_rest(run):
                whole = False
                if self._stopped.wait(RETRY_SECONDS):
                    return False
            if self._rate is not None:
                size = self._tree.chunk(run[-1]).blob_end - self._tree.chunk(run[0]).blob_off
                self._stopped.wait(max(0.0, began + size / self._rate - time.monotonic()))
        return whole

    def _iter_runs(self) -> Iterator[list[int]]:
        """What is missing and can be kept, in pieces that are worth a request."""
        run: list[int] = []
        start = end = 0
        for place in self._iter_missing():
            if run and (place.blob_off < start or place.blob_off != end or place.blob_end - start > RUN_MAX):
                yield run
                run = []
            if not run:
                start = place.blob_off
            run.append(place.id)
            end = place.blob_end
        if run:
            yield run

    def _iter_missing(self) -> Iterator[Chunk]:
        """One chunk of each member that is not here, as they lie in the blobs."""
        for number, layer in enumerate(self._layers):
            off = 0
            while layer.lazy and (chunks := self._tree.stretch(number, off, _STRETCH)):
                for chunk in chunks:
                    place = self._tree.chunk(chunk)
                    if place.blob_off >= off and place.digest is not None and not self._loader.has(chunk):
                        yield place
                off = self._tree.chunk(chunks[-1]).blob_off + 1
