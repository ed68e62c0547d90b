"""The whole digest of a layer that is read before anything ties its TOC to the manifest. Fetch loop only."""

import logging

from crfs.errors import CrfsError, DigestMismatch
from crfs.formats.digest import check_hash, parse_digest
from crfs.layers.layer import Layer

log = logging.getLogger(__name__)


async def verify_in_background(layer: Layer) -> None:
    """Read the layer once. A mismatch ends all reading from it; a failed transfer leaves it unverified."""
    try:
        await _check_whole(layer)
    except DigestMismatch as error:
        layer.health.failure = str(error)
        log.error("%s; reads from it fail from now on", error)
    except CrfsError as error:
        log.warning("%s stays unverified: %s", layer.name, error)
    else:
        log.info("%s: the whole layer matches its digest", layer.name)


async def _check_whole(layer: Layer) -> None:
    hasher = parse_digest(layer.name).hasher()
    async for piece in layer.blob.iter_body():
        hasher.update(piece)
    check_hash(hasher, layer.name, layer.blob.name)
