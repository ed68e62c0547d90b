"""What a mount tells of itself, as Prometheus metrics over HTTP. Not imported by who is not asked for them."""

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from crfs import __version__
from crfs.errors import MountError, UsageError
from crfs.image.report import Report
from crfs.mount.fuse import MountRequest

_UNIX = "unix:"
# beside the buckets' bounds
_INFINITE = "+Inf"


class _Mount(Collector):
    """The metrics of one mount, made from its report when they are asked for."""

    def __init__(self, request: MountRequest, report: Callable[[], Report]) -> None:
        self._request = request
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        report, request = self._report(), self._request
        yield InfoMetricFamily(
            "crfs_mount",
            "What is mounted, where, and by which engine.",
            {
                "mountpoint": os.fsencode(request.mountpoint).decode(errors="backslashreplace"),
                "source": request.source,
                "digest": report.digest or "",
                "engine": request.choice.engine,
                "version": __version__,
            },
        )
        yield GaugeMetricFamily("crfs_image_bytes", "Size of all layers in the registry.", report.size)
        yield CounterMetricFamily("crfs_retries", "Tries after a failure.", report.retries)
        yield from _by_registry(report)
        yield from _by_layer(report)
        yield _stalls(report)


def _by_registry(report: Report) -> Iterator[Metric]:
    requests = CounterMetricFamily("crfs_requests", "Requests sent.", labels=["registry"])
    fetched = CounterMetricFamily("crfs_fetched_bytes", "Body bytes that came.", labels=["registry"])
    for registry in report.registries:
        requests.add_metric([registry.host], registry.requests)
        fetched.add_metric([registry.host], registry.fetched)
    yield requests
    yield fetched


def _by_layer(report: Report) -> Iterator[Metric]:
    fetched = CounterMetricFamily(
        "crfs_layer_fetched_bytes", "Bytes of a layer's blob that came.", labels=["layer"]
    )
    read = CounterMetricFamily(
        "crfs_read_bytes",
        "Bytes that readers got, that were here or were waited for.",
        labels=["layer", "from"],
    )
    for layer in report.layers:
        fetched.add_metric([layer.digest], layer.fetched)
        read.add_metric([layer.digest, "cache"], layer.cached)
        read.add_metric([layer.digest, "registry"], layer.waited)
    yield fetched
    yield read


def _stalls(report: Report) -> Metric:
    stalls = report.stalls
    buckets = [(str(bound), float(count)) for bound, count in stalls.buckets]
    return HistogramMetricFamily(
        "crfs_read_stall_seconds",
        "How long readers waited for bytes that were not here.",
        buckets=[*buckets, (_INFINITE, float(stalls.count))],
        sum_value=stalls.seconds,
    )


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Ip6Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def serving_metrics(address: str, request: MountRequest, report: Callable[[], Report]) -> Iterator[None]:
    """Answer HTTP at `unix:PATH` or `[HOST]:PORT` for as long as this lasts; UsageError, MountError naming it."""
    registry = CollectorRegistry()
    registry.register(_Mount(request, report))
    with _bound(address, MetricsHandler.factory(registry)) as server:
        thread = threading.Thread(target=server.serve_forever, name="crfs-metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _bound(address: str, handler: type) -> Iterator[socketserver.BaseServer]:
    try:
        server = _server(address, handler)
    except OSError as error:
        raise MountError(f"--metrics {address}: {error.strerror or error}") from error
    with server:
        try:
            yield server
        finally:
            if address.startswith(_UNIX):
                Path(address.removeprefix(_UNIX)).unlink(missing_ok=True)


def _server(address: str, handler: type) -> socketserver.BaseServer:
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        _drop_dead(path)
        return _UnixServer(path, handler)
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--metrics {address}: neither unix:PATH nor [HOST]:PORT")
    host = host.removeprefix("[").removesuffix("]")
    made = _Ip6Server if ":" in host else ThreadingHTTPServer
    return made((host, int(port)), handler)


def _drop_dead(path: str) -> None:
    """Remove a socket that nobody listens at any more; whatever else is there stays."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if Path(path).is_socket():
                os.unlink(path)
