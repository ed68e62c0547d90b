"""What a conversion is to make, and whether that can be. Pure."""

import enum

from msgspec import Struct

from crfs.convert.lazylayer import CHUNK_SIZE, Kind, Options
from crfs.convert.packing import GZIP_LEVELS, ZSTD_LEVELS, Pack, gzip_packer, keep, zstd_packer
from crfs.convert.wanted import Wanted
from crfs.errors import UnsupportedError, UsageError
from crfs.formats.mediatypes import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from crfs.formats.zstdchunked import Dialect


class LayerFormat(enum.Enum):
    """A layer's format, as the command line has it."""

    ESTARGZ = "estargz"
    STARGZ = "stargz"
    ZSTD_CHUNKED = "zstd:chunked"
    GZIP = "gzip"
    ZSTD = "zstd"
    TAR = "tar"

    @property
    def is_lazy(self) -> bool:
        """Whether it has a TOC."""
        return self in (LayerFormat.ESTARGZ, LayerFormat.STARGZ, LayerFormat.ZSTD_CHUNKED)

    @property
    def levels(self) -> range:
        """Its levels of compression."""
        if self is LayerFormat.TAR:
            return range(1)
        return ZSTD_LEVELS if self in (LayerFormat.ZSTD_CHUNKED, LayerFormat.ZSTD) else GZIP_LEVELS


_DEFAULT_LEVELS = {LayerFormat.ZSTD_CHUNKED: 6, LayerFormat.ZSTD: 6, LayerFormat.TAR: 0}
# formats whose readers find a file in the middle of a member, and where one should end then
_SHARED_MEMBERS = (Kind.ESTARGZ, Kind.EXTERNAL_TOC, Kind.ZSTD_STARGZ)
_MIN_CHUNK_SIZE = 64 << 10
_PLAIN = {
    LayerFormat.ESTARGZ: OCI_LAYER_GZIP,
    LayerFormat.STARGZ: OCI_LAYER_GZIP,
    LayerFormat.ZSTD_CHUNKED: OCI_LAYER_ZSTD,
    LayerFormat.GZIP: OCI_LAYER_GZIP,
    LayerFormat.ZSTD: OCI_LAYER_ZSTD,
    LayerFormat.TAR: OCI_LAYER,
}


class Plan(Struct, frozen=True):
    """The options of a conversion, as `crfs convert --help` tells them. None: what the format has by default."""

    format: LayerFormat = LayerFormat.ESTARGZ
    dialect: Dialect = Dialect.PODMAN
    level: int | None = None
    chunk_size: int = CHUNK_SIZE
    min_chunk_size: int | None = None
    wanted: Wanted | None = None
    flatten: bool = False
    keep_diff_id: bool = False
    external_toc: bool = False
    rewrite: bool = False

    @property
    def kind(self) -> Kind:
        """What a lazy format is written as."""
        if self.format is LayerFormat.ZSTD_CHUNKED:
            return Kind.ZSTD_PODMAN if self.dialect is Dialect.PODMAN else Kind.ZSTD_STARGZ
        if self.format is LayerFormat.STARGZ:
            return Kind.STARGZ
        return Kind.EXTERNAL_TOC if self.external_toc else Kind.ESTARGZ

    @property
    def chosen_level(self) -> int:
        """The level that is used."""
        return _DEFAULT_LEVELS.get(self.format, 6) if self.level is None else self.level

    @property
    def chosen_min_chunk_size(self) -> int:
        """The least that a member holds; 0: each chunk has its own."""
        if self.min_chunk_size is not None:
            return self.min_chunk_size
        return _MIN_CHUNK_SIZE if self.kind in _SHARED_MEMBERS else 0

    @property
    def options(self) -> Options:
        """How a lazy layer is written."""
        return Options(
            self.kind,
            self.chunk_size,
            self.chosen_min_chunk_size,
            level=self.chosen_level,
            keep_tar=self.keep_diff_id,
            ordered=self.wanted is not None,
        )

    @property
    def plain(self) -> tuple[str, Pack]:
        """The media type of a layer without a TOC, and what packs it: also where the format would have one."""
        level = self.chosen_level
        if self.format is LayerFormat.TAR:
            return OCI_LAYER, keep
        media_type = _PLAIN[self.format]
        return media_type, (zstd_packer if media_type == OCI_LAYER_ZSTD else gzip_packer)(level)


def check_plan(plan: Plan) -> None:
    """UsageError for options that contradict each other, UnsupportedError for what a format can't do."""
    if plan.chosen_level not in plan.format.levels:
        levels = plan.format.levels
        raise UsageError(
            f"--compression-level: {plan.format.value} has the levels {levels[0]} to {levels[-1]}, not {plan.level}"
        )
    if plan.chunk_size < 1:
        raise UsageError("--chunk-size has to be above 0")
    if plan.min_chunk_size and plan.kind is Kind.ZSTD_PODMAN and plan.format.is_lazy:
        raise UnsupportedError(
            "--min-chunk-size: podman reads each chunk of zstd:chunked from a frame of its own"
        )
    if plan.external_toc and plan.format is not LayerFormat.ESTARGZ:
        raise UsageError("--external-toc is for estargz only")
    if plan.wanted is not None and not (plan.format.is_lazy and plan.kind.has_landmark):
        raise UnsupportedError(f"--trace, --prioritize: {plan.format.value} has no mark for what to prefetch")
    if plan.keep_diff_id:
        _check_keep(plan)


def _check_keep(plan: Plan) -> None:
    if plan.format.is_lazy and plan.kind.toc_in_tar:
        raise UnsupportedError(
            f"--keep-diff-id: the TOC of {plan.format.value} is a file of the tar; with --external-toc, or in the "
            "format zstd:chunked, it is not"
        )
    if plan.wanted is not None or plan.flatten:
        raise UsageError("--keep-diff-id: another order, or another set of files, is another tar")
