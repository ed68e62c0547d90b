"""Media types of OCI images (image-spec, media-types.md) and of Docker's schema 2. Pure; any thread."""

import enum

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"

DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})

# What a request for a manifest accepts. Schema 1 is left out: a registry that has nothing else says so.
ACCEPT_MANIFESTS = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


class Compression(enum.Enum):
    """How a layer's tar is packed, as declared; its bytes may differ, and their magic decides."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


FOREIGN_LAYERS = frozenset(
    {OCI_FOREIGN_LAYER, OCI_FOREIGN_LAYER + "+gzip", OCI_FOREIGN_LAYER + "+zstd"}
    | {DOCKER_FOREIGN_LAYER, DOCKER_FOREIGN_LAYER + ".gzip", DOCKER_FOREIGN_LAYER + ".zstd"}
)
_SUFFIXES = (
    ("", Compression.NONE),
    ("+gzip", Compression.GZIP),
    (".gzip", Compression.GZIP),
    ("+zstd", Compression.ZSTD),
    (".zstd", Compression.ZSTD),
)
_LAYERS = {
    base + suffix: compression
    for base in (OCI_LAYER, OCI_FOREIGN_LAYER, DOCKER_LAYER, DOCKER_FOREIGN_LAYER)
    for suffix, compression in _SUFFIXES
}


def essence(media_type: str) -> str:
    """A Content-Type without parameters, in lower case: `Text/JSON; charset=utf-8` is `text/json`."""
    return media_type.partition(";")[0].strip().lower()


def layer_compression(media_type: str) -> Compression | None:
    """The compression that a media type declares; None when it isn't a tar layer's (encrypted, wasm, ...)."""
    return _LAYERS.get(essence(media_type))


def is_foreign(media_type: str) -> bool:
    """True for layers that registries don't carry: their bytes come from the descriptor's `urls`."""
    return essence(media_type) in FOREIGN_LAYERS
