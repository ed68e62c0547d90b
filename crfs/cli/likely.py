"""What is fetched before anybody asks: the image's trace, and what lies before its landmarks.

Of a trace that says where in the blobs its chunks lie, fetching begins before the image is open.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

from crfs.blobs.blob import ImageSource
from crfs.cli.services import Services, Settings
from crfs.cli.tracing import find_kept, load_trace
from crfs.errors import CrfsError
from crfs.formats.manifest import Manifest
from crfs.image.ahead import Ahead
from crfs.image.chunks import ChunkLoader
from crfs.image.kept import KeptTree
from crfs.image.runs import RUN_MAX, Span, plan_runs
from crfs.image.trace import Touch, find_chunks

log = logging.getLogger(__name__)
_STRETCH = 256
# bytes that are held for chunks that are not known yet
_HELD_MAX = 64 << 20


class Likely:
    """For one image: begin() where its layers have yet to be opened, then start(). Neither waits for anything.

    UsageError, FormatError where the trace that was asked for is none.
    """

    def __init__(self, services: Services, settings: Settings) -> None:
        self._services = services
        self._settings = settings
        self._asked = load_trace(settings.trace) if settings.trace is not None else None
        self._found: Future[list[Touch]] | None = None

    def begin(self, image: ImageSource, digest: str, manifest: Manifest) -> None:
        """Fetch the bytes that the trace names; any thread."""
        if self._asked is not None or self._settings.traces:
            self._found = self._services.network.submit(self._begin(image, digest, manifest))

    async def _begin(self, image: ImageSource, digest: str, manifest: Manifest) -> list[Touch]:
        touches = self._find(digest) or await self._fetch(image, digest)
        blobs = {layer.digest: image.open_blob(layer) for layer in manifest.layers}
        sizes = {layer.digest: layer.size for layer in manifest.layers}
        held = 0
        for run in plan_runs(list(self._iter_missing(touches, sizes))):
            held += run[-1].end - run[0].start
            if held > _HELD_MAX:
                break
            self._services.network.ranges.hold(
                blobs[str(run[0].layer)], run[0].start, max(span.end for span in run)
            )
        return touches

    async def _fetch(self, image: ImageSource, digest: str) -> list[Touch]:
        """The trace that is attached to the image; nothing that waits for a reader waits for it."""
        if self._asked is not None:
            return []
        # late: only where no trace is at hand
        from crfs.image.attached import fetch_trace

        try:
            return await fetch_trace(image, digest) or []
        except CrfsError as error:
            log.info("%s: its trace can't be had: %s", image.name, error)
            return []

    def _iter_missing(self, touches: Sequence[Touch], sizes: dict[str, int]) -> Iterator[Span]:
        for touch in touches:
            start, end = touch.blob or (0, 0)
            sound = 0 <= start < end <= min(sizes.get(touch.layer, 0), start + 2 * RUN_MAX)
            if sound and not self._is_here(touch.digest):
                yield Span(touch.layer, start, end)

    def _is_here(self, digest: str) -> bool:
        try:
            return bool(digest) and self._services.store.has_chunk(bytes.fromhex(digest))
        except ValueError:
            return False

    def _find(self, digest: str | None) -> list[Touch]:
        if self._asked is not None:
            return self._asked
        return find_kept(self._settings, self._services.store.directory, digest)

    def start(self, kept: KeptTree, digest: str | None, loader: ChunkLoader) -> None:
        """Fetch what the image's tree has of it."""
        pool = self._services.pool
        ahead = Ahead(kept.tree, kept.layers, loader, self._services.network)

        def start_trace() -> None:
            touches = self._found.result() if self._found is not None else self._find(digest)
            ahead.start(find_chunks(kept.tree, touches), lambda: self._services.network.ranges.let_go())

        if self._found is not None and self._found.done():
            # at once: what readers miss from now on is to find that it is on its way
            _logged(start_trace)
        elif self._found is not None:
            self._found.add_done_callback(lambda _: _logged(lambda: pool.submit(_logged, start_trace)))
        elif self._asked is not None or self._settings.traces:
            pool.submit(_logged, start_trace)
        if any(layer.landmark for layer in kept.layers):
            pool.submit(_logged, lambda: ahead.start(list(_iter_landmarks(kept))))


def _logged(work: Callable[[], object]) -> None:
    # the threads may have ended meanwhile
    with contextlib.suppress(RuntimeError, CancelledError):
        try:
            work()
        except CrfsError as error:
            log.warning("nothing is fetched ahead: %s", error)


def _iter_landmarks(kept: KeptTree) -> Iterator[int]:
    """The chunks before the landmark of each layer, the topmost layer first: what it changes is what it is for."""
    for number, layer in reversed(list(enumerate(kept.layers))):
        off = 0
        while layer.lazy and off < layer.landmark:
            chunks = kept.tree.stretch(number, off, _STRETCH)
            places = [kept.tree.chunk(chunk) for chunk in chunks]
            yield from (place.id for place in places if off <= place.blob_off < layer.landmark)
            off = places[-1].blob_off + 1 if places else layer.landmark
