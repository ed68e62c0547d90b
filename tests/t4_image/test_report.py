"""What readers got and waited for, and what is told of it."""

from crfs._native.layerindex import LayerIndex
from crfs.blobs.localfile import FileBlob
from crfs.blobs.transport import Stats
from crfs.image.counters import STALL_SECONDS, Counters
from crfs.image.report import Watched, report_images
from crfs.layers.layer import Format, Layer, Trust


def _layer(name: str) -> Layer:
    return Layer(
        name, Format.ESTARGZ, Trust.MANIFEST, LayerIndex(), FileBlob("/dev/null", "file:///dev/null"), 100
    )


def test_a_wait_counts_in_the_first_bucket_that_holds_it() -> None:
    counters = Counters(1)
    for seconds in (0.0, STALL_SECONDS[0], STALL_SECONDS[0] * 1.01, STALL_SECONDS[-1] * 2):
        counters.stalled(0, 10, seconds)
    now = counters.now()
    assert (now.stalls[0], now.stalls[1], now.stalls[-1], sum(now.stalls)) == (2, 1, 1, 4)
    assert now.waited == (40,)


def test_several_images_are_told_as_one() -> None:
    one, other, stats = Counters(1), Counters(2), Stats()
    one.cached(0, 5)
    other.cached(1, 7)
    other.stalled(0, 11, 0.5)
    stats.sent("registry:5000")
    stats.received("registry:5000", 30)
    stats.received_of("sha256:b", 20)
    images = [
        Watched("sha256:m", [_layer("sha256:a")], one),
        Watched("sha256:n", [_layer("sha256:b"), _layer("sha256:c")], other),
    ]
    report = report_images(images, stats)
    assert (report.digest, report.size, report.fetched, report.requests) == ("sha256:m", 300, 30, 1)
    assert (report.cached, report.waited) == (12, 11)
    assert [(layer.digest, layer.fetched, layer.cached, layer.waited) for layer in report.layers] == [
        ("sha256:a", 0, 5, 0),
        ("sha256:b", 20, 0, 11),
        ("sha256:c", 0, 7, 0),
    ]
    assert [(found.host, found.requests, found.fetched) for found in report.registries] == [
        ("registry:5000", 1, 30)
    ]
    assert (report.stalls.count, report.stalls.seconds) == (1, 0.5)
    below, at = (dict(report.stalls.buckets)[bound] for bound in (0.25, 0.5))
    assert (below, at) == (0, 1)


def test_without_a_network_nothing_was_fetched() -> None:
    report = report_images([Watched(None, [_layer("file:///x")], Counters(1))], None)
    assert (report.digest, report.fetched, report.requests, report.registries) == (None, 0, 0, ())
