"""How members are compressed: gzip by libdeflate, zstd by python-zstandard, both without the GIL; or not at all."""

import threading
from collections.abc import Callable

import zstandard

from crfs._native.deflate import GzipCompressor

GZIP_LEVELS = range(13)
ZSTD_LEVELS = range(1, 23)
# what one thread makes of a member's bytes
Pack = Callable[[bytes], bytes]


def gzip_packer(level: int) -> Pack:
    """Packs into gzip members, by any number of threads; ValueError unless `level` is one of GZIP_LEVELS."""
    GzipCompressor(level)
    return _per_thread(lambda: GzipCompressor(level).compress)


def zstd_packer(level: int) -> Pack:
    """Packs into zstd frames that say how long they are, by any number of threads."""
    return _per_thread(lambda: zstandard.ZstdCompressor(level=level).compress)


def keep(data: bytes) -> bytes:
    """The `Pack` that compresses nothing."""
    return data


def _per_thread(make: Callable[[], Pack]) -> Pack:
    local = threading.local()

    def pack(data: bytes) -> bytes:
        found: Pack | None = getattr(local, "pack", None)
        if found is None:
            found = local.pack = make()
        return found(data)

    return pack
