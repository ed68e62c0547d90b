"""What is fetched as soon as an image is open, before anybody asks: its trace, and what lies before its landmarks."""

import logging
from collections.abc import Iterator

from crfs.cli.services import Services, Settings
from crfs.cli.tracing import find_kept, load_trace
from crfs.errors import CrfsError
from crfs.image.ahead import Ahead
from crfs.image.chunks import ChunkLoader
from crfs.image.kept import KeptTree
from crfs.image.trace import find_chunks

log = logging.getLogger(__name__)
_STRETCH = 256


def start_likely(
    services: Services, settings: Settings, kept: KeptTree, digest: str | None, loader: ChunkLoader
) -> None:
    """Begin, without waiting for anything. UsageError, FormatError where the trace that was asked for is none."""
    touches = load_trace(settings.trace) if settings.trace is not None else None

    def work() -> None:
        try:
            wanted = touches if touches is not None else find_kept(settings, services.store.directory, digest)
            chunks = [*find_chunks(kept.tree, wanted), *_iter_landmarks(kept)]
            if chunks:
                Ahead(kept.tree, kept.layers, loader, services.network).start(chunks)
        except CrfsError as error:
            log.warning("nothing is fetched ahead: %s", error)

    if touches is not None or settings.traces or any(layer.landmark for layer in kept.layers):
        services.pool.submit(work)


def _iter_landmarks(kept: KeptTree) -> Iterator[int]:
    """The chunks before the landmark of each layer, the topmost layer first: what it changes is what it is for."""
    for number, layer in reversed(list(enumerate(kept.layers))):
        off = 0
        while layer.lazy and off < layer.landmark:
            chunks = kept.tree.stretch(number, off, _STRETCH)
            places = [kept.tree.chunk(chunk) for chunk in chunks]
            yield from (place.id for place in places if off <= place.blob_off < layer.landmark)
            off = places[-1].blob_off + 1 if places else layer.landmark
