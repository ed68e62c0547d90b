"""One entry's metadata, twice: as the tar header that is written, and as its TOC entry. Pure."""

import tarfile
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

from crfs.errors import FormatError, NotLazyError
from crfs.formats.toc import TocEntry

# the prefix of PAX records that hold extended attributes
XATTR_RECORD = "SCHILY.xattr."
# what tarfile makes anew from a header's attributes, and what describes sparse data, which is written in full
_DERIVED = ("path", "linkpath", "size", "uid", "gid", "uname", "gname", "hdrcharset", "GNU.sparse.")
_EPOCH = datetime(1970, 1, 1)
_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.AREGTYPE: "reg",
    tarfile.CONTTYPE: "reg",
    tarfile.GNUTYPE_SPARSE: "reg",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


class WrittenEntry(TocEntry, rename="camel", gc=False, omit_defaults=True):
    """A TOC entry with what readers of ours do without."""

    user_name: str = ""
    group_name: str = ""
    end_offset: int = 0


class OwnerNames:
    """The names of users and groups, each told once per id, as the reference implementation does."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], str] = {}

    def news(self, kind: str, number: int, name: str) -> str:
        """`name` unless it is what was last told for this id, or can't be told in JSON; then empty."""
        if self._told.get((kind, number), "") == name or not _is_utf8(name):
            return ""
        self._told[kind, number] = name
        return name


def normalise(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A header of our own with what `info` says, whatever dialect of tar it came from.

    FormatError for a type that a layer can't have.
    """
    kind = _TYPES.get(info.type)
    if kind is None:
        raise FormatError(f"{info.name!r} is of the unknown tar type {info.type!r}")
    clean = tarfile.TarInfo(info.name)
    clean.type = tarfile.REGTYPE if kind == "reg" else info.type
    clean.size = info.size if kind == "reg" else 0
    clean.linkname = info.linkname if kind in ("symlink", "hardlink") else ""
    clean.mode = info.mode & 0o7777
    clean.mtime = info.mtime
    clean.uid, clean.gid, clean.uname, clean.gname = info.uid, info.gid, info.uname, info.gname
    if kind in ("char", "block"):
        clean.devmajor, clean.devminor = info.devmajor, info.devminor
    kept = {key: value for key, value in info.pax_headers.items() if not key.startswith(_DERIVED)}
    clean.pax_headers = kept
    return clean


def pack_header(info: tarfile.TarInfo) -> bytes:
    """The header blocks, in the PAX format."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def is_plain(info: tarfile.TarInfo) -> bool:
    """Whether a header as it came says no more than its normalised form does."""
    kind = _TYPES.get(info.type)
    return (
        kind is not None
        and info.type not in (tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
        and (kind == "reg" or not info.size)
    )


def describe(info: tarfile.TarInfo, names: OwnerNames, unnamed: bool = False) -> WrittenEntry:
    """The TOC entry of a normalised header, without digests and offsets, and where `unnamed`, of owners' names.

    NotLazyError for a name that isn't UTF-8, which JSON can't hold; FormatError for a time outside of years 1 to 9999.
    """
    return WrittenEntry(
        name=_text(info.name + ("/" if info.isdir() and not info.name.endswith("/") else "")),
        type=_TYPES[info.type],
        size=info.size,
        modtime=_modtime(info),
        link_name=_text(info.linkname),
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        user_name="" if unnamed else names.news("user", info.uid, info.uname),
        group_name="" if unnamed else names.news("group", info.gid, info.gname),
        dev_major=info.devmajor,
        dev_minor=info.devminor,
        xattrs=_xattrs(info),
    )


def set_mtime(info: tarfile.TarInfo, ns: int) -> None:
    """Give a header a time in nanoseconds, of which TarInfo itself has only the seconds."""
    info.mtime = ns // 1_000_000_000
    if ns % 1_000_000_000:
        info.pax_headers = {**info.pax_headers, "mtime": f"{Decimal(ns) / 1_000_000_000:f}"}


def _xattrs(info: tarfile.TarInfo) -> dict[str, bytes] | None:
    found = {
        _text(key.removeprefix(XATTR_RECORD)): value.encode("utf-8", "surrogateescape")
        for key, value in info.pax_headers.items()
        if key.startswith(XATTR_RECORD)
    }
    return found or None


def _text(text: str) -> str:
    if not _is_utf8(text):
        raise NotLazyError(f"a TOC can't hold {text!r}, which is not UTF-8")
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _modtime(info: tarfile.TarInfo) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one; empty for the epoch, as in the reference."""
    # tarfile turns the PAX record into a float, which doesn't hold a nanosecond
    try:
        ns = int(Decimal(info.pax_headers.get("mtime", info.mtime)) * 1_000_000_000)
        seconds, fraction = divmod(ns, 1_000_000_000)
        moment = _EPOCH + timedelta(seconds=seconds)
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise FormatError(f"{info.name!r} has the impossible time {info.mtime}") from error
    if ns == 0:
        return ""
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{moment.isoformat()}{digits}Z"
