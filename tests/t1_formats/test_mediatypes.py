"""Media types of layers, as real producers write them."""

import pytest

from crfs.formats.mediatypes import Compression, essence, is_foreign, layer_compression


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        ("application/vnd.oci.image.layer.v1.tar", Compression.NONE),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression.ZSTD),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression.ZSTD),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression.GZIP),
        ("application/vnd.docker.image.rootfs.diff.tar", Compression.NONE),
        ("Application/Vnd.OCI.image.layer.v1.tar+GZIP; x=y", Compression.GZIP),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
        ("application/vnd.wasm.content.layer.v1+wasm", None),
        ("application/vnd.in-toto+json", None),
        ("", None),
    ],
)
def test_layer_compression(media_type: str, compression: Compression | None) -> None:
    assert layer_compression(media_type) is compression


def test_foreign_layers() -> None:
    assert is_foreign("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    assert is_foreign("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd")
    assert not is_foreign("application/vnd.oci.image.layer.v1.tar+gzip")


def test_essence_drops_parameters() -> None:
    assert essence(' Application/JSON ; charset="utf-8"') == "application/json"
