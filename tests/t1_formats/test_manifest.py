"""Manifests, indexes, configs and the choice of a platform."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs.errors import CrfsError, FormatError, UnsupportedError, UsageError
from crfs.formats import mediatypes
from crfs.formats.manifest import Descriptor, ImageIndex, Manifest, parse_config, parse_manifest
from crfs.formats.platforms import Platform, host_platform, parse_platform, select_manifest

A, B, C = ("sha256:" + char * 64 for char in "abc")


def blob(digest: str = A, media_type: str = mediatypes.OCI_LAYER_GZIP, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 7, **more}


def image(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "config": blob(C, mediatypes.OCI_CONFIG),
        "layers": [blob(A), blob(B)],
        **more,
    }


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_oci_image() -> None:
    body = image(mediaType=mediatypes.OCI_MANIFEST, annotations={"k": "v"}, unknown=[1, {"x": None}])
    body["layers"][1]["annotations"] = {"containerd.io/snapshot/stargz/toc.digest": C}
    found = parse_manifest(encode(body))
    assert isinstance(found, Manifest)
    assert found.media_type == mediatypes.OCI_MANIFEST
    assert [layer.digest for layer in found.layers] == [A, B]
    assert found.layers[1].annotations == {"containerd.io/snapshot/stargz/toc.digest": C}
    assert (found.config.digest, found.config.size, found.annotations) == (C, 7, {"k": "v"})


def test_docker_image_by_its_content_type() -> None:
    body = image()
    del body["schemaVersion"]
    found = parse_manifest(encode(body), mediatypes.DOCKER_MANIFEST + "; charset=utf-8")
    assert found.media_type == mediatypes.DOCKER_MANIFEST


def test_kind_by_fields_alone() -> None:
    assert isinstance(parse_manifest(encode(image()), "application/octet-stream"), Manifest)
    assert isinstance(parse_manifest(encode({"schemaVersion": 2, "manifests": []}), "text/plain"), ImageIndex)


def test_null_is_empty() -> None:
    body = image(annotations=None, layers=None)
    body["config"] |= {"annotations": None, "urls": None, "platform": None}
    found = parse_manifest(encode(body))
    assert isinstance(found, Manifest)
    assert (found.layers, found.annotations, found.config.urls) == ((), {}, ())
    index = parse_manifest(encode({"mediaType": mediatypes.OCI_INDEX, "manifests": None}))
    assert isinstance(index, ImageIndex)
    assert index.manifests == ()


def test_foreign_layer_keeps_its_urls() -> None:
    found = parse_manifest(encode(image(layers=[blob(urls=["https://h/x"])])))
    assert isinstance(found, Manifest)
    assert found.layers[0].urls == ("https://h/x",)


def test_descriptor_encodes_as_oci_json() -> None:
    there = Descriptor(mediatypes.OCI_LAYER, A, 3, {"k": "v"}, platform=Platform("linux", "arm", "v7"))
    assert json.loads(msgspec.json.encode(there)) == {
        "mediaType": mediatypes.OCI_LAYER,
        "digest": A,
        "size": 3,
        "annotations": {"k": "v"},
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
    }


@pytest.mark.parametrize(
    "body",
    [
        image(config=blob("sha256:12")),
        image(config=blob(A) | {"size": -1}),
        image(config=blob(A) | {"size": 2**63}),
        image(config=blob(A) | {"size": 1.5}),
        image(config=blob(A) | {"size": "7"}),
        image(config={"mediaType": mediatypes.OCI_CONFIG, "size": 1}),
        image(layers=[{"digest": A, "size": 1}]),
        image(layers={}),
        image(layers=[None]),
        image(annotations={"k": 1}),
        image(manifests=[blob()]),
        [],
        "text",
        None,
    ],
)
def test_should_fail_malformed_manifest(body: object) -> None:
    with pytest.raises(FormatError):
        parse_manifest(encode(body))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"layers":' + b"[" * 100_000, b" " * (5 << 20)])
def test_should_fail_malformed_json(body: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(body, mediatypes.OCI_MANIFEST)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ({"schemaVersion": 1, "fsLayers": [], "history": []}, mediatypes.DOCKER_SCHEMA1_SIGNED),
        ({"schemaVersion": 1}, None),
        ({}, mediatypes.DOCKER_SCHEMA1),
        ({"mediaType": "application/vnd.cncf.helm"}, None),
        ({"schemaVersion": 2}, "text/html"),
    ],
)
def test_should_fail_unsupported_kind(body: object, media_type: str | None) -> None:
    with pytest.raises(UnsupportedError):
        parse_manifest(encode(body), media_type)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["config", "layers", "manifests", "mediaType", "size", "digest", "rootfs"]),
                inner,
            )
        ),
    )
)
def test_should_fail_only_in_our_words(body: object) -> None:
    for parse in (parse_manifest, parse_config):
        with contextlib.suppress(CrfsError):
            parse(encode(body))


def test_config() -> None:
    found = parse_config(
        encode(
            {
                "architecture": "arm64",
                "os": "linux",
                "variant": "v8",
                "rootfs": {"type": "layers", "diff_ids": [A, B]},
                "config": {
                    "Entrypoint": ["/bin/sh", "-c"],
                    "Cmd": None,
                    "Env": ["PATH=/bin"],
                    "User": "1000:1000",
                    "WorkingDir": "/srv",
                    "StopSignal": "SIGQUIT",
                    "ExposedPorts": {"80/tcp": {}},
                    "Volumes": None,
                    "Labels": {"a": "b"},
                    "OnBuild": [],
                },
                "history": [{"created_by": "x"}],
            }
        )
    )
    assert found.diff_ids == (A, B)
    assert str(found.platform) == "linux/arm64/v8"
    assert found.config.entrypoint == ("/bin/sh", "-c")
    assert found.config.cmd is None
    assert found.config.env == ("PATH=/bin",)
    assert (found.config.user, found.config.working_dir) == ("1000:1000", "/srv")
    assert (found.config.stop_signal, found.config.exposed_ports) == ("SIGQUIT", ("80/tcp",))


def test_config_of_little() -> None:
    assert parse_config(encode({"rootfs": {"type": "layers", "diff_ids": None}})).diff_ids == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rootfs": {"type": "other", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": []}, "config": {"Cmd": "text"}},
    ],
)
def test_should_fail_malformed_config(body: object) -> None:
    with pytest.raises(FormatError):
        parse_config(encode(body))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AARCH64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm/7", "linux/arm"),
        ("linux/armhf", "linux/arm"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("arm64", "linux/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platform(text: str, shown: str) -> None:
    assert str(parse_platform(text)) == shown


@pytest.mark.parametrize("text", ["", "/", "linux/", "/amd64", "linux/arm/v7/x", "linux /amd64", "linux//v8"])
def test_should_fail_malformed_platform(text: str) -> None:
    with pytest.raises(UsageError, match="is not a platform"):
        parse_platform(text)


def test_host_platform_is_one() -> None:
    assert parse_platform(str(host_platform())) == host_platform()


def index_of(*platforms: str | None) -> ImageIndex:
    """An index whose entries have the sizes 0, 1, 2, ..."""
    entries = []
    for size, text in enumerate(platforms):
        platform = None if text is None else Platform(*text.split("/"))
        entries.append(Descriptor(mediatypes.OCI_MANIFEST, A, size, platform=platform))
    return ImageIndex(mediatypes.OCI_INDEX, tuple(entries))


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], 1),
        ("linux/amd64/v3", ["linux/amd64/v4", "linux/amd64"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"], 1),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/riscv64/x", ["linux/riscv64"], 0),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["unknown/unknown", None], 1),
    ],
)
def test_select(wanted: str, there: list[str | None], chosen: int) -> None:
    assert select_manifest(index_of(*there), parse_platform(wanted)).size == chosen


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("linux/amd64", []),
        ("linux/amd64", ["linux/386", "linux/arm64"]),
        ("linux/amd64", ["linux/amd64/v2"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/amd64", ["windows/amd64"]),
        ("linux/amd64", ["unknown/unknown"]),
        ("linux/amd64", [None, None]),
    ],
)
def test_should_fail_no_such_platform(wanted: str, there: list[str | None]) -> None:
    with pytest.raises(UnsupportedError, match=f"nothing for {wanted}"):
        select_manifest(index_of(*there), parse_platform(wanted))


def test_should_fail_listing_what_there_is() -> None:
    with pytest.raises(UnsupportedError, match=r"there is: linux/arm/v6, windows/amd64$"):
        select_manifest(
            index_of("linux/arm/v6", "windows/amd64", "unknown/unknown"), parse_platform("linux/amd64")
        )


def test_attestations_are_told_by_their_annotation() -> None:
    marked = Descriptor(
        mediatypes.OCI_MANIFEST,
        A,
        0,
        {"vnd.docker.reference.type": "attestation-manifest"},
        platform=Platform("linux", "amd64"),
    )
    index = ImageIndex(mediatypes.OCI_INDEX, (marked, *index_of("linux/amd64/v1").manifests))
    assert select_manifest(index, parse_platform("linux/amd64")).annotations == {}
