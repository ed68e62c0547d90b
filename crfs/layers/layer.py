"""What is known of one opened layer. Values only; made by opener, read by everyone above."""

import enum
from pathlib import Path

from msgspec import Struct, field

from crfs._native.layerindex import LayerIndex
from crfs.blobs.blob import Blob
from crfs.layers.codec import GZIP, Codec


class Format(enum.Enum):
    """How a layer's blob is laid out."""

    STARGZ = "stargz"
    ESTARGZ = "estargz"
    ESTARGZ_EXTERNAL = "estargz-external-toc"
    ZSTD_CHUNKED = "zstd:chunked"
    TAR = "tar"
    TAR_GZIP = "tar+gzip"
    TAR_ZSTD = "tar+zstd"


class Trust(enum.Enum):
    """By what a layer's bytes are known to be the right ones.

    MANIFEST: the manifest vouches for the TOC, the TOC for each chunk. TOC: a TOC that is taken at its word
    vouches for the chunks. BACKGROUND: the same, until the whole layer has been compared with its digest.
    WHOLE: digest and diff_id of the whole layer. NONE: a single blob without a TOC, which has no digest.
    """

    MANIFEST = "manifest"
    TOC = "toc"
    BACKGROUND = "background"
    WHOLE = "whole"
    NONE = "none"


class Health(Struct):
    """Whether a layer is still believed; shared by all who read it."""

    failure: str | None = None


class Layer(Struct, frozen=True):
    """One layer, opened. `name` is its digest, or the URL or path of a single blob; `size` in bytes or None.

    A lazy layer's chunks lie compressed in `blob`, as `codec` says; any other's lie in the uncompressed tar at `tar`.
    What lies before `landmark` in it is worth fetching before anybody asks. `reason` says why a layer is not lazy.
    """

    name: str
    format: Format
    trust: Trust
    index: LayerIndex
    blob: Blob
    size: int | None
    toc_size: int = 0
    tar: Path | None = None
    reason: str | None = None
    codec: Codec = GZIP
    landmark: int = 0
    health: Health = field(default_factory=Health)

    @property
    def lazy(self) -> bool:
        """Whether bytes are fetched as they are read."""
        return self.tar is None
