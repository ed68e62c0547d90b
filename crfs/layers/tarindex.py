"""The headers of an uncompressed tar into a layer index; chunks point into that very file. Blocking I/O."""

import os
import stat
import tarfile
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import cast

from crfs._native.layerindex import LayerIndex
from crfs.errors import FormatError
from crfs.formats.toc import RESERVED_NAMES, TOC_NAME

_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_XATTR = "SCHILY.xattr."
_TIME_LIMIT_NS = 1 << 63


def index_tar(path: Path, name: str) -> LayerIndex:
    """The index of the tar at `path`; FormatError, with the layer's `name`, where it is damaged or no tar.

    Where the tar ends with a TOC, it is a stargz layer's, and neither the TOC nor the landmarks are shown.
    """
    index = LayerIndex()
    reserved: list[tarfile.TarInfo] = []
    info = None
    end = 0
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                end = tar.offset
                # tarfile keeps every header it has met
                tar.members = []  # type: ignore[attr-defined]
                if info.size < 0:
                    # some versions of tarfile would go back, and round in circles
                    raise FormatError(f"{info.name!r} has a size below zero")
                if info.name.removeprefix("./") in RESERVED_NAMES:
                    reserved.append(info)
                else:
                    _add(index, info)
            _check_end(tar, end)
        if info is None or info.name != TOC_NAME:
            for info in reserved:
                _add(index, info)
        index.seal(path.stat().st_size + 1)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from error
    except (tarfile.TarError, ValueError, ArithmeticError, EOFError, RecursionError) as error:
        raise FormatError(f"{name}: no tar, or a damaged one: {error}") from error
    return index


def _check_end(tar: tarfile.TarFile, end: int) -> None:
    """A tar ends with zeros or with the file; tarfile takes a damaged header for its end as well."""
    assert tar.fileobj is not None
    tar.fileobj.seek(end)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise FormatError(f"the tar has a damaged header at {end}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _add(index: LayerIndex, info: tarfile.TarInfo) -> None:
    if info.islnk():
        index.add_hardlink(_bytes(info.name), _bytes(info.linkname))
        return
    xattrs = {
        _bytes(key.removeprefix(_XATTR)): _bytes(value)
        for key, value in info.pax_headers.items()
        if key.startswith(_XATTR)
    }
    index.add(
        _bytes(info.name),
        _TYPES.get(info.type, stat.S_IFREG) | info.mode & 0o7777,
        info.uid,
        info.gid,
        info.size,
        _mtime_ns(info),
        os.makedev(info.devmajor, info.devminor) if info.isdev() and not info.isfifo() else 0,
        _bytes(info.linkname),
        xattrs or None,
    )
    if info.type not in _TYPES:
        # a type that nobody knows stands for a file (POSIX, pax)
        for file_off, size, tar_off in _extents(info):
            index.add_chunk(file_off, size, tar_off, 0, None)


def _extents(info: tarfile.TarInfo) -> list[tuple[int, int, int]]:
    """(file offset, size, tar offset) of a file's data; a sparse file has holes between them."""
    # the type stubs say bytes; it is a list of (offset, size)
    sparse = cast("list[tuple[int, int]] | None", info.sparse)
    if sparse is None:
        return [(0, info.size, info.offset_data)] if info.size else []
    extents = []
    tar_off = info.offset_data
    for file_off, size in sparse:
        if size:
            extents.append((file_off, size, tar_off))
        tar_off += size
    return extents


def _mtime_ns(info: tarfile.TarInfo) -> int:
    """tarfile turns PAX times into floats, which do not hold a nanosecond; the record's text does."""
    text = info.pax_headers.get("mtime")
    try:
        ns = int(Decimal(text) * 1_000_000_000) if text is not None else int(info.mtime) * 1_000_000_000
    except InvalidOperation as error:
        raise FormatError(f"{info.name!r} has the malformed time {text!r}") from error
    return ns if -_TIME_LIMIT_NS < ns < _TIME_LIMIT_NS else 0
