"""What is said of an image's layers without fetching them: for each format, and at what cost."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from crfs.errors import CrfsError, DigestMismatch, FormatError, NotFoundError
from crfs.formats.footer import FooterKind, build_footer
from crfs.formats.manifest import Descriptor
from crfs.formats.mediatypes import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from crfs.image.inspect import ImageReport, inspect_image, inspect_single
from crfs.layers.inspect import LayerReport
from tests.support.faults import Status
from tests.support.layers import Dir, Entry, File, Hardlink
from tests.t3_layers.images import Built, Place, lazy, whole, without_annotations

ENTRIES: list[Entry] = [Dir("d"), File("d/f", b"x" * 5000), File("g", b"y" * 100), Hardlink("h", "g")]
NO_TOC = "no TOC that the manifest vouches for"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Place(tmp_path) as place:
        yield place
    assert list((tmp_path / "cache" / "chunks").iterdir()) == []
    assert list((tmp_path / "cache" / "layers").iterdir()) == []


def inspect(place: Place, source: str = "web", **more: Any) -> ImageReport:
    return place.run(source, inspect_image, inspect_single, **more)


def layer_of(place: Place, layer: Built, **more: Any) -> LayerReport:
    place.push("web", layer)
    (report,) = inspect(place, **more).layers
    assert report.digest == layer.descriptor.digest
    assert report.media_type == layer.descriptor.media_type
    assert report.size == len(layer.data)
    return report


def test_estargz(place: Place) -> None:
    report = layer_of(place, lazy(ENTRIES, chunk_size=1024))
    assert (report.format, report.lazy, report.reason, report.verified) == ("estargz", True, None, "manifest")
    # four entries, and five chunks for one of the files and one for the other
    assert (report.entries, report.chunks, report.file_bytes) == (4, 6, 5100)
    assert report.toc_size is not None
    assert report.size is not None
    assert 0 < report.toc_size < report.size


@pytest.mark.parametrize(
    ("layer", "kind", "reason"),
    [
        pytest.param(whole(ENTRIES, bytes, OCI_LAYER), "tar", f"its format is {OCI_LAYER}", id="tar"),
        pytest.param(whole(ENTRIES), "tar+gzip", NO_TOC, id="gzip"),
        pytest.param(
            whole(ENTRIES, zstandard.compress, OCI_LAYER_ZSTD),
            "tar+zstd",
            NO_TOC,
            id="zstd",
        ),
        pytest.param(
            lazy(ENTRIES, kind=FooterKind.STARGZ),
            "stargz",
            "nothing ties its TOC to the manifest (--allow-unverified reads it lazily)",
            id="stargz",
        ),
        pytest.param(
            without_annotations(lazy(ENTRIES)),
            "estargz",
            "nothing ties its TOC to the manifest (--allow-unverified reads it lazily)",
            id="estargz-without-a-digest",
        ),
        pytest.param(
            lazy(ENTRIES, kind=FooterKind.EXTERNAL_TOC),
            "tar+gzip",
            "its TOC should lie in HOST/web:1-esgztoc, which is not there",
            id="external",
        ),
    ],
)
def test_layers_that_are_fetched_whole(place: Place, layer: Built, kind: str, reason: str) -> None:
    report = layer_of(place, layer)
    reason = reason.replace("HOST", place.proxy.host)
    assert (report.format, report.lazy, report.reason, report.verified) == (kind, False, reason, "whole")
    assert (report.toc_size, report.entries, report.chunks, report.file_bytes) == (None, None, None, None)


def test_stargz_that_is_read_before_it_is_verified(place: Place) -> None:
    report = layer_of(place, lazy(ENTRIES, kind=FooterKind.STARGZ), allow_unverified=True)
    assert (report.format, report.lazy, report.verified) == ("stargz", True, "background")
    assert (report.entries, report.chunks) == (4, 2)


def test_media_type_of_no_layer(place: Place) -> None:
    layer = whole(ENTRIES)
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    encrypted = Built(
        layer.data, Descriptor(media_type, layer.descriptor.digest, len(layer.data)), layer.diff_id
    )
    report = layer_of(place, encrypted)
    assert (report.format, report.lazy, report.reason) == ("unknown", False, "no layer that can be mounted")


@pytest.mark.parametrize("toc_off", [0, 10, 1 << 40])
def test_toc_that_no_mount_would_look_at(place: Place, toc_off: int) -> None:
    """Nothing in the manifest speaks of a TOC: the layer is fetched whole, whatever its end looks like."""
    data = gzip.compress(b"some tar") + build_footer(FooterKind.ESTARGZ, toc_off)
    layer = Built(data, Descriptor(OCI_LAYER_GZIP, whole(ENTRIES).descriptor.digest, len(data)), "")
    place.push("web", layer)
    place.files[f"/v2/web/blobs/{layer.descriptor.digest}"] = data
    (report,) = inspect(place).layers
    assert (report.format, report.lazy) == ("tar+gzip", False)
    assert str(report.reason).startswith("its TOC is of no use: ")


def test_all_layers_for_one_request_each(place: Place) -> None:
    layers = [
        lazy(ENTRIES),
        whole(ENTRIES),
        whole(ENTRIES, zstandard.compress, OCI_LAYER_ZSTD),
        lazy([File("x")]),
    ]
    digest = place.push("web", *layers)
    report = inspect(place)
    assert (report.name, report.digest) == (f"{place.proxy.host}/web:1", digest)
    assert [layer.digest for layer in report.layers] == [layer.descriptor.digest for layer in layers]
    assert [layer.lazy for layer in report.layers] == [True, False, False, True]
    assert place.proxy.count("GET", "/blobs/") == 4


@pytest.mark.parametrize("kind", [FooterKind.STARGZ, FooterKind.ESTARGZ])
def test_single_blob(place: Place, kind: FooterKind) -> None:
    layer = lazy(ENTRIES, kind=kind)
    place.files["/layer"] = layer.data
    url = f"{place.proxy.url}/layer"
    report = inspect(place, url)
    assert (report.name, report.digest) == (url, None)
    (found,) = report.layers
    assert (found.digest, found.media_type, found.format) == (url, None, kind.name.lower())
    assert (found.lazy, found.verified, found.size) == (True, "toc", len(layer.data))


def test_single_blob_without_a_toc(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(whole(ENTRIES).data)
    (found,) = inspect(place, f"file://{path}").layers
    assert (found.lazy, found.verified, found.reason) == (False, "none", "no stargz footer")


def test_report_as_json(place: Place) -> None:
    place.push("web", lazy(ENTRIES), whole(ENTRIES))
    document = msgspec.json.decode(msgspec.json.encode(inspect(place)))
    assert list(document) == ["name", "digest", "layers"]
    assert list(document["layers"][0]) == [
        *("digest", "media-type", "format", "lazy", "reason", "verified", "size"),
        *("toc-size", "entries", "chunks", "file-bytes"),
    ]
    assert document["layers"][1]["toc-size"] is None


# --- failures


def should_fail(place: Place, kind: type[CrfsError], match: str) -> None:
    with pytest.raises(kind, match=match):
        inspect(place)


def test_should_fail_toc_of_another_digest(place: Place) -> None:
    good, other = lazy(ENTRIES), lazy([File("x")])
    annotated = Descriptor(
        OCI_LAYER_GZIP, good.descriptor.digest, len(good.data), other.descriptor.annotations
    )
    place.push("web", Built(good.data, annotated, good.diff_id))
    should_fail(place, DigestMismatch, f"web@{good.descriptor.digest}: the TOC has the digest")


def test_should_fail_blob_of_another_size(place: Place) -> None:
    layer = lazy(ENTRIES)
    place.push("web", layer)
    place.files[f"/v2/web/blobs/{layer.descriptor.digest}"] = layer.data + b"more"
    should_fail(place, CrfsError, layer.descriptor.digest)


def test_should_fail_layer_that_is_gone(place: Place) -> None:
    layer = lazy(ENTRIES)
    place.push("web", lazy([File("x")]), layer)
    place.proxy.use(Status(status=404, path=layer.descriptor.digest))
    should_fail(place, NotFoundError, layer.descriptor.digest)


def test_should_fail_manifest_that_is_none(place: Place) -> None:
    place.put("web", b"[]", "1")
    should_fail(place, FormatError, "the manifest is malformed")
