"""The entries of a tar that comes as a stream, each with the very bytes of its headers.

Python's tarfile needs about 90 us an entry for this, all of it with the GIL: more than what compresses them.
Here, plain headers and PAX records are read directly; rare headers, and whatever is sparse, are left to tarfile.
Blocking; one thread.
"""

import io
import struct
import tarfile
from collections.abc import Iterator
from typing import IO, Protocol, cast

from crfs.convert.entries import TarEntry, damage_as_format_error
from crfs.errors import FormatError

_BLOCK = 512
# POSIX, ustar: name; mode, uid, gid, size, mtime, checksum; type, target; magic; owners' names; device; prefix
_HEADER = struct.Struct("100s 8s8s8s12s12s8s c100s 8x 32s32s 8s8s 155s")
_CHECKSUM = slice(148, 156)
_USUAL_TYPES = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
_ZEROS = bytes(_BLOCK)
_SKIP = 1 << 20
# headers that only say something of the next one, or of all: longer ones are no names
_EXTENSION_MAX = 16 << 20
_GLOBAL, _PAX = (tarfile.XGLTYPE,), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_NUMBERS = {"uid": int, "gid": int, "size": int, "mtime": float}
_TEXTS = {"path": "name", "linkpath": "linkname", "uname": "uname", "gname": "gname"}


class Source(Protocol):
    """Where the tar comes from."""

    def read(self, size: int, /) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        ...


class TarStream:
    """Iterates over the entries once; a payload is gone when the next entry is asked for.

    `tail` holds what lay behind the last entry, once there is none left. FormatError where it is damaged or no tar.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._payload = _Payload(source, 0)
        self._globals: dict[str, str] = {}
        self._off = 0
        self.tail = b""

    def __iter__(self) -> Iterator[TarEntry]:
        while True:
            self._off += self._payload.finish()
            raw = _Raw(self._source)
            with damage_as_format_error():
                entry = self._next(raw)
            if entry is None:
                self.tail = bytes(raw.data)
                return
            yield entry

    def _next(self, raw: "_Raw") -> TarEntry | None:
        """The next entry, its headers collected in `raw`; None at the end, `raw` then has the rest."""
        records = dict(self._globals)
        names: dict[str, str] = {}
        plain = True
        while True:
            block = raw.read(_BLOCK)
            if len(block) < _BLOCK or block == _ZEROS:
                self._check_end(block, raw)
                return None
            info = self._parse(block)
            if info.type in _GLOBAL:
                self._globals |= _pax_records(raw.read_extension(info))
                records |= self._globals
                plain = False
            elif info.type in _PAX:
                records |= _pax_records(raw.read_extension(info))
            elif info.type in _LONG:
                names[_LONG[info.type]] = _text(raw.read_extension(info).partition(b"\0")[0])
            else:
                break
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in records):
            try:
                return self._sparse(raw)
            except (ValueError, LookupError) as error:
                raise FormatError(f"a sparse file's header is damaged: {error}") from error
        _apply(info, {**names, **records} if names else records)
        info.pax_headers = records
        return self._entry(info, raw, plain)

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        if (usual := parse_usual(block)) is not None:
            return usual
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if self._off == 0:
                raise
            raise FormatError(f"the tar has a damaged header behind {self._off} bytes") from error

    def _check_end(self, block: bytes, raw: "_Raw") -> None:
        if block and len(block) < _BLOCK:
            raise FormatError("no tar, or one that is cut short")
        if len(raw.data) > len(block):
            raise FormatError("the tar ends behind an extended header")
        if not block and self._off == 0:
            raise FormatError("no tar: it is empty")
        while piece := self._source.read(_SKIP):
            raw.data += piece
            if len(raw.data) > _EXTENSION_MAX:
                raise FormatError("the tar ends, and something else goes on behind it")

    def _entry(self, info: tarfile.TarInfo, raw: "_Raw", plain: bool) -> TarEntry:
        has_payload = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        if info.size < 0:
            raise FormatError(f"{info.name!r} has a size below zero")
        self._payload = payload = _Payload(self._source, info.size if has_payload else 0)
        self._off += len(raw.data)
        return TarEntry(info, lambda: cast(IO[bytes], payload), bytes(raw.data) if plain else None)

    def _sparse(self, raw: "_Raw") -> TarEntry:
        """An entry with holes, read by tarfile, which gives the file as it is to be; its headers are not kept."""
        forward = _Forward(bytes(raw.data), self._source)
        tar = tarfile.open(  # noqa: SIM115 - it reads from the caller's stream, and holds nothing
            fileobj=cast(IO[bytes], forward),
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
            pax_headers=self._globals,
        )
        info: tarfile.TarInfo | None = tar.firstmember  # type: ignore[attr-defined]
        if info is None:
            raise FormatError("a sparse file's header is damaged")
        self._payload = _Rest(self._source, forward, tar.offset)
        self._off += tar.offset
        return TarEntry(info, lambda: tar.extractfile(info) or io.BytesIO())


class _Raw:
    """Header bytes as they were read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.data = bytearray()

    def read(self, size: int) -> bytes:
        found = self._source.read(size)
        self.data += found
        return found

    def read_extension(self, info: tarfile.TarInfo) -> bytes:
        """What a header that belongs to the next one holds."""
        if not 0 <= info.size <= _EXTENSION_MAX:
            raise FormatError(f"an extended header claims to have {info.size} bytes")
        padded = info.size + -info.size % _BLOCK
        found = self.read(padded)
        if len(found) < padded:
            raise FormatError("the tar is cut short in an extended header")
        return found[: info.size]


class _Payload:
    """The bytes of one file, and the padding behind them."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._left = size
        self._padding = -size % _BLOCK
        self._size = size

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, fewer where the file or the tar ends."""
        size = self._left if size < 0 else min(size, self._left)
        found = self._source.read(size) if size else b""
        self._left -= len(found)
        return found

    def __enter__(self) -> "_Payload":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def finish(self) -> int:
        """Pass over what nobody read, and the padding; how long both are with what was read."""
        left = self._left + self._padding
        while left:
            piece = self._source.read(min(left, _SKIP))
            if not piece:
                # some writers leave out the last padding
                if self._left + self._padding - left >= self._left:
                    break
                raise FormatError("the tar is cut short in the middle of a file")
            left -= len(piece)
        self._left = self._padding = 0
        return self._size + -self._size % _BLOCK


class _Forward:
    """A file that tarfile can read forward in: headers that were read already, then the stream."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source
        self.at = 0
        self.fetched = len(head)

    def tell(self) -> int:
        return self.at

    def seek(self, off: int, _whence: int = 0) -> int:
        if off < self.at and off < self.fetched and self.fetched > len(self._head):
            raise FormatError("a sparse file is not laid out one piece behind the other")
        while self.fetched < off and self._fetch(min(off - self.fetched, _SKIP)):
            pass
        self.at = off
        return off

    def read(self, size: int) -> bytes:
        found = self._head[self.at : self.at + size]
        self.at += len(found)
        if len(found) < size:
            more = self._fetch(size - len(found))
            self.at += len(more)
            found += more
        return found

    def _fetch(self, size: int) -> bytes:
        found = self._source.read(size)
        self.fetched += len(found)
        return found


class _Rest(_Payload):
    """What of a sparse member's `end` bytes has not been fetched when the next one is asked for."""

    def __init__(self, source: Source, forward: _Forward, end: int) -> None:
        super().__init__(source, 0)
        self._forward = forward
        self._end = end

    def finish(self) -> int:
        while (left := self._end - self._forward.fetched) > 0:
            if not self._forward._fetch(min(left, _SKIP)):
                raise FormatError("the tar is cut short in the middle of a file")
        return 0


def parse_usual(block: bytes) -> tarfile.TarInfo | None:
    """What tarfile makes of a header, if it is one as almost all are, in less than half of its time."""
    name, *numbers, kind, target, uname, gname, major, minor, prefix = _HEADER.unpack_from(block)
    if kind not in _USUAL_TYPES:
        return None
    info = tarfile.TarInfo(_name(name))
    try:
        info.mode, info.uid, info.gid, info.size, info.mtime, checksum = map(_octal, numbers)
        info.devmajor, info.devminor = _octal(major), _octal(minor)
    except ValueError:
        # binary, or none
        return None
    if checksum != sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" "):
        return None
    info.chksum = checksum
    info.type, info.linkname, info.uname, info.gname = kind, _name(target), _name(uname), _name(gname)
    if kind == tarfile.DIRTYPE:
        info.name = info.name.rstrip("/")
    if above := _name(prefix):
        info.name = f"{above}/{info.name}"
    return info


def _octal(field: bytes) -> int:
    return int(field.rstrip(b"\0 ") or b"0", 8)


def _name(field: bytes) -> str:
    return _text(field.partition(b"\0")[0])


def _apply(info: tarfile.TarInfo, records: dict[str, str]) -> None:
    """What extended headers say in place of the plain one, as tarfile reads it."""
    for key, value in records.items():
        if key in _TEXTS:
            setattr(info, _TEXTS[key], value.rstrip("/") if key == "path" else value)
        elif key in _NUMBERS:
            try:
                setattr(info, key, _NUMBERS[key](value))
            except ValueError:
                setattr(info, key, 0)
    if info.isdir():
        info.name = info.name.rstrip("/")


def _pax_records(data: bytes) -> dict[str, str]:
    """`LENGTH KEY=VALUE\\n`, one behind the other (POSIX, pax)."""
    records = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space, end)
        if end > len(data) or equals < 0 or data[end - 1] != 10:
            raise FormatError("the tar has a malformed extended header")
        records[_text(data[space + 1 : equals])] = _text(data[equals + 1 : end - 1])
        at = end
    return records


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
