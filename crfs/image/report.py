"""What is told of images that are being read: to whoever looks at a mount, and to Prometheus. No I/O."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from crfs.image.counters import STALL_SECONDS, Counters
from crfs.layers.layer import Layer

if TYPE_CHECKING:
    from crfs.blobs.transport import Stats


class LayerReport(msgspec.Struct, frozen=True, rename="kebab"):
    """`size` in bytes of the blob, `fetched` of these; `cached` and `waited` are bytes that readers got."""

    digest: str
    format: str
    lazy: bool
    size: int | None
    fetched: int
    cached: int
    waited: int


class RegistryReport(msgspec.Struct, frozen=True, rename="kebab"):
    """One `HOST[:PORT]` that was asked."""

    host: str
    requests: int
    fetched: int


class StallReport(msgspec.Struct, frozen=True, rename="kebab"):
    """How often and how long readers waited; `buckets` are (bound in seconds, stalls up to it)."""

    count: int = 0
    seconds: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()


class Report(msgspec.Struct, frozen=True, rename="kebab"):
    """Images of one mount, bottom first; `digest` is the manifest's of the lowest one.

    `size` is that of all layers, `fetched` counts every byte that came over the network, `cached` and `waited` those
    that readers got.
    """

    digest: str | None = None
    size: int = 0
    fetched: int = 0
    cached: int = 0
    waited: int = 0
    requests: int = 0
    retries: int = 0
    stalls: StallReport = StallReport()
    registries: tuple[RegistryReport, ...] = ()
    layers: tuple[LayerReport, ...] = ()


class Watched(msgspec.Struct, frozen=True):
    """An open image and what is counted of it."""

    digest: str | None
    layers: Sequence[Layer]
    counters: Counters


def report_images(images: Sequence[Watched], stats: "Stats | None") -> Report:
    """What is to be told; `stats` are of the network that all of the images share."""
    blobs = dict(stats.blobs) if stats else {}
    layers: list[LayerReport] = []
    stalls, seconds = [0] * (len(STALL_SECONDS) + 1), 0.0
    for image in images:
        now = image.counters.now()
        counted = zip(image.layers, now.cached, now.waited, strict=True)
        layers += [_layer(layer, blobs, *counts) for layer, *counts in counted]
        stalls = [one + other for one, other in zip(stalls, now.stalls, strict=True)]
        seconds += now.stalled_seconds
    hosts = dict(stats.hosts) if stats else {}
    return Report(
        digest=images[0].digest if images else None,
        size=sum(layer.size or 0 for layer in layers),
        fetched=stats.bytes if stats else 0,
        cached=sum(layer.cached for layer in layers),
        waited=sum(layer.waited for layer in layers),
        requests=stats.requests if stats else 0,
        retries=stats.retries if stats else 0,
        stalls=_stalls(stalls, seconds),
        registries=tuple(
            RegistryReport(host, counts.requests, counts.bytes) for host, counts in sorted(hosts.items())
        ),
        layers=tuple(layers),
    )


def state_files(report: Report) -> dict[bytes, bytes]:
    """What is told as files: JSON by name; all of it, and each layer's by its digest."""
    files = {b"state.json": msgspec.json.encode(report)}
    for layer in report.layers:
        if "/" not in layer.digest:
            files[f"{layer.digest}.json".encode()] = msgspec.json.encode(layer)
    return {name: msgspec.json.format(body, indent=2) + b"\n" for name, body in files.items()}


def _layer(layer: Layer, blobs: dict[str, int], cached: int, waited: int) -> LayerReport:
    fetched = blobs.get(layer.name, 0)
    return LayerReport(layer.name, layer.format.value, layer.lazy, layer.size, fetched, cached, waited)


def _stalls(counts: Sequence[int], seconds: float) -> StallReport:
    buckets, total = [], 0
    for bound, count in zip(STALL_SECONDS, counts, strict=False):
        total += count
        buckets.append((bound, total))
    return StallReport(sum(counts), round(seconds, 6), tuple(buckets))
