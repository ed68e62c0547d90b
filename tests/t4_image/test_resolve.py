"""From references to opened layers: indexes, platforms, configs on demand, and what fails first."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from crfs.errors import CrfsError, DigestMismatch, FormatError, NotFoundError, UnsupportedError
from crfs.formats.footer import FooterKind
from crfs.formats.mediatypes import DOCKER_LIST, OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST
from crfs.layers.layer import Trust
from tests.support.faults import FaultProxy, Slow, Stall, Status
from tests.support.layers import Dir, Entry, File, Hardlink, whiteout
from tests.t3_layers.images import Built, Image, Place, lazy, whole, without_annotations

LOWER = [Dir("d"), File("d/a", b"lower a" * 100), File("d/b", b"lower b" * 100)]
UPPER = [File("d/b", b"upper b" * 100), whiteout("d/a"), File("c", b"upper c")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Place(tmp_path) as place:
        yield place


def check(image: Image) -> None:
    """That it is LOWER below UPPER."""
    assert [name for name, _, _ in image.tree.entries(image.find(b"d"), 0, 9)] == [b"b"]
    assert image.read(b"d/b") == b"upper b" * 100
    assert image.read(b"c") == b"upper c"


def asked(proxy: FaultProxy) -> list[str]:
    """The last parts of the paths asked for: manifests by what they were asked for, blobs by digest."""
    return [seen.path.rsplit("/", 1)[1] for seen in proxy.requests if "/v2/" in seen.path]


# --- layers


def test_lazy_image_costs_a_manifest_and_a_tail_each(place: Place) -> None:
    digest = place.push("web", lazy(LOWER), lazy(UPPER))
    with place.open("web") as image:
        assert (place.proxy.count("GET", "/manifests/"), place.proxy.count("GET", "/blobs/")) == (1, 2)
        assert image.resolved.digest == digest
        assert image.resolved.name == f"{place.proxy.host}/web:1"
        assert [layer.trust for layer in image.resolved.layers] == [Trust.MANIFEST] * 2
        check(image)


@pytest.mark.parametrize("upper", [whole(UPPER), whole(UPPER, bytes, OCI_LAYER), lazy(UPPER)])
@pytest.mark.parametrize("lower", [whole(LOWER, zstandard.compress, OCI_LAYER_ZSTD), lazy(LOWER)])
def test_layers_of_all_kinds_are_merged(place: Place, lower: Any, upper: Any) -> None:
    place.push("web", lower, upper)
    with place.open("web") as image:
        # the config is asked for once, and only if a layer is fetched whole
        expected = 2 + (image.resolved.layers[0].tar is not None or image.resolved.layers[1].tar is not None)
        assert place.proxy.count("GET", "/blobs/") == expected
        check(image)


def test_config_is_fetched_once_for_many_layers(place: Place) -> None:
    layers = [whole([File(f"f{number}", b"%d" % number)]) for number in range(8)]
    place.push("web", *layers)
    with place.open("web") as image:
        assert place.proxy.count("GET", "/blobs/") == 9
        assert [image.read(b"f%d" % number) for number in range(8)] == [b"%d" % number for number in range(8)]


def test_second_time_whole_layers_come_from_the_cache(place: Place) -> None:
    place.push("web", whole(LOWER), lazy(UPPER))
    place.open("web").__exit__(None, None, None)
    place.forget()
    with place.open("web") as image:
        assert place.proxy.count("GET", "/blobs/") == 0
        check(image)


def test_image_of_no_layers_is_an_empty_directory(place: Place) -> None:
    place.push("web")
    with place.open("web") as image:
        assert image.tree.entries(1, 0, 9) == []


def test_the_same_layer_twice(place: Place) -> None:
    place.push("web", lazy(LOWER), lazy(UPPER), lazy(LOWER))
    with place.open("web") as image:
        assert image.read(b"d/a") == b"lower a" * 100


@pytest.mark.warns("nothing ties its TOC to the manifest")
def test_unverified_layers_are_warned_about(place: Place) -> None:
    place.push("web", lazy(LOWER, kind=FooterKind.STARGZ), without_annotations(lazy(UPPER)))
    with place.open("web", allow_unverified=True) as image:
        assert [layer.trust for layer in image.resolved.layers] == [Trust.BACKGROUND] * 2
        check(image)


def test_single_blobs(place: Place, tmp_path: Path) -> None:
    for number, layer in enumerate([lazy(LOWER), lazy(LOWER, kind=FooterKind.STARGZ), whole(LOWER)]):
        path = tmp_path / f"{number}.layer"
        path.write_bytes(layer.data)
        place.files[f"/{number}"] = layer.data
        for source in (f"{place.proxy.url}/{number}", f"file://{path}"):
            with place.open(source) as image:
                assert image.read(b"d/a") == b"lower a" * 100
                assert image.resolved.digest is None
                assert str(number) in image.resolved.name


# --- indexes and platforms


def index(*entries: tuple[str, str], media_type: str = OCI_INDEX) -> bytes:
    """An index of (platform, digest)."""
    manifests = []
    for text, digest in entries:
        parts = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        manifests.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": parts})
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode()


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_index_is_looked_up_by_platform(place: Place, media_type: str) -> None:
    entries = []
    for platform in ("linux/arm64/v8", "linux/amd64", "windows/amd64"):
        layer = lazy([File("platform", platform.encode())])
        entries.append((platform, place.push("web", layer, tag=platform.replace("/", "-"))))
    place.put("web", index(*entries, media_type=media_type), "1")
    for platform, digest in entries:
        place.forget()
        with place.open("web", platform=platform) as image:
            assert image.read(b"platform") == platform.encode()
            assert image.resolved.digest == digest
            assert asked(place.proxy)[:2] == ["1", digest]


def test_index_in_an_index(place: Place) -> None:
    inner = place.put("web", index(("linux/amd64", place.push("web", lazy(LOWER), tag="x"))))
    place.put("web", index(("linux/amd64", inner)), "1")
    with place.open("web") as image:
        assert image.read(b"d/a") == b"lower a" * 100


def test_should_fail_index_that_is_nested_without_end(place: Place) -> None:
    digest = place.push("web", lazy(LOWER), tag="x")
    for _ in range(5):
        digest = place.put("web", index(("linux/amd64", digest)), "1")
    with pytest.raises(UnsupportedError, match=r"/web:1: the index is nested more than \d levels deep$"):
        place.open("web")


def test_should_fail_platform_that_the_index_lacks(place: Place) -> None:
    place.put("web", index(("linux/arm64", place.push("web", lazy(LOWER), tag="x"))), "1")
    with pytest.raises(CrfsError, match=r"linux/s390x"):
        place.open("web", platform="linux/s390x")


def test_should_fail_manifest_that_the_index_does_not_mean(place: Place) -> None:
    digest = place.push("web", lazy(LOWER), tag="x")
    other = place.push("web", lazy(UPPER), tag="y")
    place.files[f"/v2/web/manifests/{digest}"] = place.files[f"/v2/web/manifests/{other}"]
    place.put("web", index(("linux/amd64", digest)), "1")
    with pytest.raises(DigestMismatch, match=digest):
        place.open("web")


# --- failures


def test_should_fail_image_that_is_not_there(place: Place) -> None:
    with pytest.raises(NotFoundError, match=r"/v2/web/manifests/1"):
        place.open("web")


def test_should_fail_manifest_that_is_none(place: Place) -> None:
    place.put("web", b"<html>", "1")
    with pytest.raises(FormatError, match="the manifest is malformed"):
        place.open("web")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_should_fail_config_of_another_number_of_layers(place: Place, count: int) -> None:
    place.push("web", lazy(LOWER), whole(UPPER), diff_ids=[lazy(LOWER).diff_id] * count)
    message = f"/web:1: the config has {count} diff_ids for 2 layers$"
    with pytest.raises(FormatError, match=message):
        place.open("web")


def test_config_of_a_lazy_image_is_not_even_looked_at(place: Place) -> None:
    place.push("web", lazy(LOWER), diff_ids=[])
    with place.open("web") as image:
        assert image.read(b"d/a")


def test_should_fail_config_that_is_another(place: Place) -> None:
    place.push("web", whole(LOWER))
    (path,) = [path for path, data in place.files.items() if "/blobs/" in path and data.startswith(b"{")]
    place.files[path] = place.files[path].replace(b"amd64", b"arm64")
    with pytest.raises(DigestMismatch, match=path.rsplit("/", 1)[1]):
        place.open("web")


def test_should_fail_wrong_diff_id(place: Place) -> None:
    # of a layer that is nowhere: one that is here by then would be taken
    absent = whole([File("absent")]).diff_id
    place.push("web", whole(LOWER), whole(UPPER), diff_ids=[whole(LOWER).diff_id, absent])
    with pytest.raises(DigestMismatch, match=f"{whole(UPPER).descriptor.digest}: the layer's tar is"):
        place.open("web")


@pytest.mark.parametrize("bad", range(3))
def test_should_fail_with_the_name_of_the_layer(place: Place, bad: int) -> None:
    """And nothing is left half-way: not in the cache, and no thread."""
    layers = [whole(LOWER), lazy(UPPER), whole([File("x", os.urandom(100_000))])]
    place.push("web", *layers)
    digest = layers[bad].descriptor.digest
    place.proxy.use(Status(status=404, path=digest))
    with pytest.raises(NotFoundError, match=digest):
        place.open("web")
    assert list((place.cache / "tmp").iterdir()) == []


def test_should_fail_at_once_and_end_the_other_layers(place: Place) -> None:
    slow = whole([File("x", os.urandom(500_000))])
    gone = lazy(LOWER)
    place.push("web", slow, gone)
    place.proxy.use(
        Slow(seconds=0.2, path=slow.descriptor.digest), Status(status=404, path=gone.descriptor.digest)
    )
    before = time.monotonic()
    with pytest.raises(NotFoundError, match=gone.descriptor.digest):
        place.open("web")
    assert time.monotonic() - before < 3
    assert list((place.cache / "tmp").iterdir()) == []
    assert list((place.cache / "layers").iterdir()) == []


def test_should_fail_when_nothing_comes(place: Place) -> None:
    layer = whole(LOWER)
    place.push("web", layer)
    place.proxy.use(Stall(path=layer.descriptor.digest))
    with pytest.raises(CrfsError, match=layer.descriptor.digest):
        place.open("web")


@pytest.mark.parametrize("build", [lazy, whole])
def test_should_fail_layers_that_have_no_tree(place: Place, build: Callable[[list[Entry]], Built]) -> None:
    place.push("web", lazy(LOWER), build([Hardlink("h", "nowhere")]))
    with pytest.raises(FormatError, match=r"/web:1: .*nowhere.* is not there$"):
        place.open("web")
