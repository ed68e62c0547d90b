"""Small layers for unit tests: entries as values, tars and eStargz blobs of them, and random trees of them.

Names and targets are `str` with surrogate escapes for bytes that are not UTF-8; `entry.path` has the bytes.
"""

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from crfs.convert.entries import TarEntry, clean_name
from crfs.convert.headers import set_mtime
from crfs.convert.lazylayer import ConvertedLayer, Kind, Options, write_layer
from crfs.convert.wanted import Wanted, iter_wanted_first
from crfs.formats.footer import FooterKind

# 2024-01-02 03:04:05 UTC
MTIME_NS = 1_704_164_645 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attributes:
    """What every entry has; `mode` without the type."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    uname: str = ""
    gname: str = ""
    mtime_ns: int = MTIME_NS
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry(_Attributes):
    """Any entry of a tar."""

    name: str

    @property
    def path(self) -> bytes:
        """The name as bytes."""
        return _bytes(self.name)

    def header(self) -> tarfile.TarInfo:
        """The tar header, complete but for what a subclass adds."""
        info = tarfile.TarInfo(self.name)
        info.mode, info.uid, info.gid = self.mode, self.uid, self.gid
        info.uname, info.gname = self.uname, self.gname
        info.pax_headers = {f"SCHILY.xattr.{name}": _text(value) for name, value in self.xattrs.items()}
        set_mtime(info, self.mtime_ns)
        return info

    def payload(self) -> bytes:
        """A file's bytes, nothing for all others."""
        return b""


@dataclass(frozen=True, slots=True)
class File(Entry):
    data: bytes = b""

    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.size = len(self.data)
        return info

    def payload(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class Dir(Entry):
    mode: int = field(default=0o755, kw_only=True)

    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.type = tarfile.DIRTYPE
        return info


@dataclass(frozen=True, slots=True)
class _Link(Entry):
    target: str


@dataclass(frozen=True, slots=True)
class Symlink(_Link):
    mode: int = field(default=0o777, kw_only=True)

    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.type, info.linkname = tarfile.SYMTYPE, self.target
        return info


@dataclass(frozen=True, slots=True)
class Hardlink(_Link):
    """Another name for an earlier entry; a reader must take all attributes from that one."""

    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.type, info.linkname = tarfile.LNKTYPE, self.target
        return info


@dataclass(frozen=True, slots=True)
class Fifo(Entry):
    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.type = tarfile.FIFOTYPE
        return info


@dataclass(frozen=True, slots=True)
class Device(Entry):
    """A character device, or with `block` a block device."""

    major: int
    minor: int
    block: bool = False

    def header(self) -> tarfile.TarInfo:
        info = Entry.header(self)
        info.type = tarfile.BLKTYPE if self.block else tarfile.CHRTYPE
        info.devmajor, info.devminor = self.major, self.minor
        return info


def whiteout(name: str) -> File:
    """Hides what the layers below have under `name`."""
    head, slash, tail = name.rpartition("/")
    return File(f"{head}{slash}.wh.{tail}")


def opaque(directory: str) -> File:
    """Hides all that the layers below have in `directory`."""
    return File(f"{directory}/.wh..wh..opq")


def tree_entries(root: Path) -> list[Entry]:
    """Directories, files and symbolic links of a directory, as root's."""
    entries: list[Entry] = [Dir("./")]
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            entries.append(Symlink(name, os.readlink(path)))
        elif path.is_dir():
            entries.append(Dir(name, mode=mode))
        else:
            entries.append(File(name, path.read_bytes(), mode=mode))
    return entries


def make_tar(entries: Iterable[Entry], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain tar of the entries, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format, errors="surrogateescape") as tar:
        for entry in entries:
            tar.addfile(entry.header(), io.BytesIO(entry.payload()))
    return out.getvalue()


def make_estargz(entries: Iterable[Entry], **options: Any) -> tuple[bytes, ConvertedLayer]:
    """An eStargz of the entries, and what is known about it; `options` are those of convert's Options.

    `kind` may be the one that its footer has; the names that are `prioritized` come first.
    """
    if isinstance(kind := options.get("kind"), FooterKind):
        options["kind"] = Kind[kind.name]
    given: Iterable[TarEntry] = [to_tar_entry(entry) for entry in entries]
    if prioritized := options.pop("prioritized", ()):
        given, options["ordered"] = wanted_first(given, prioritized), True
    out = io.BytesIO()
    converted = write_layer(given, out, Options(**options))
    return out.getvalue(), converted


def wanted_first(entries: Iterable[TarEntry], names: Sequence[str]) -> Iterable[TarEntry]:
    """Entries that can be read in any order, those of `names` in front."""
    return iter_wanted_first(
        lambda: contextlib.nullcontext(entries), Wanted(tuple(clean_name(name) for name in names))
    )


def to_tar_entry(entry: Entry) -> TarEntry:
    """The entry as convert/ takes it."""
    return TarEntry(entry.header(), lambda: io.BytesIO(entry.payload()))


def names(*, utf8: bool = True) -> st.SearchStrategy[str]:
    """Names of one component, up to 255 bytes: anything but NUL, `/`, `.`, `..` and what layers reserve."""
    anything = st.binary(min_size=1, max_size=255) if not utf8 else _utf8_names()
    short = st.sampled_from([b"a", b"b", b"A", b" ", b"\n", b"-x", b"\xc3\xa9", b"e\xcc\x81", b"x" * 255])
    return st.one_of(short, anything).map(_text).filter(_is_name)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _utf8_names() -> st.SearchStrategy[bytes]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0/")
    return st.text(characters, min_size=1, max_size=80).map(str.encode)


def _is_name(name: str) -> bool:
    raw = _bytes(name)
    return (
        0 < len(raw) <= 255
        and b"\0" not in raw
        and b"/" not in raw
        and raw not in (b".", b"..")
        and not raw.startswith(b".wh.")
        and "\ufffd" not in name
    )


def sizes(chunk_size: int) -> st.SearchStrategy[int]:
    """File sizes: none, few bytes, and around the boundaries of tar blocks and chunks."""
    around = [512, chunk_size, 2 * chunk_size, 3 * chunk_size]
    return st.sampled_from([0, 1, *(size + more for size in around for more in (-1, 0, 1))])


@st.composite
def trees(
    draw: st.DrawFn, *, chunk_size: int = 1024, utf8: bool = True, max_entries: int = 20
) -> list[Entry]:
    """A random layer: all types, unique names, nested directories that may lack an entry of their own.

    Parents that have an entry come before their children, and hard links after their targets.
    """
    directories: list[str] = [""]
    linkable: list[str] = []
    entries: dict[str, Entry] = {}
    for _ in range(draw(st.integers(0, max_entries))):
        name = draw(st.sampled_from(directories)) + draw(names(utf8=utf8))
        if name in entries or name + "/" in directories:
            continue
        entry = draw(_entries(name, chunk_size, linkable))
        if isinstance(entry, Dir):
            directories.append(name + "/")
            if draw(st.booleans()):
                # implied by what is put into it, and nothing else
                continue
        elif not isinstance(entry, Hardlink):
            linkable.append(name)
        entries[name] = entry
    return list(entries.values())


def _entries(name: str, chunk_size: int, linkable: Sequence[str]) -> st.SearchStrategy[Entry]:
    attributes = st.fixed_dictionaries({
        "mode": st.sampled_from([0o644, 0o755, 0o000, 0o4755, 0o2755, 0o1777, 0o7777]),
        "uid": st.sampled_from([0, 1000, 0o7777777, 2**31, 2**32 - 2]),
        "gid": st.sampled_from([0, 1000, 2**32 - 2]),
        "uname": st.sampled_from(["", "root", "usér"]),
        "mtime_ns": st.sampled_from([0, 1, MTIME_NS, MTIME_NS + 123_456_789, -(10**9), 2**33 * 10**9]),
        "xattrs": st.dictionaries(
            st.sampled_from(["user.a", "security.capability"]), st.binary(max_size=64), max_size=2
        ),
    })  # fmt: skip
    kinds = [_file(name, chunk_size), st.just(Dir(name)), _symlink(name), _device(name), st.just(Fifo(name))]
    found = st.builds(_with, st.one_of(*kinds), attributes)
    if not linkable:
        return found
    return found | st.builds(Hardlink, st.just(name), st.sampled_from(linkable))


def _with(entry: Entry, attributes: Mapping[str, Any]) -> Entry:
    values = {slot: getattr(entry, slot) for slot in entry.__dataclass_fields__}
    return type(entry)(**{**values, **attributes})


def _file(name: str, chunk_size: int) -> st.SearchStrategy[Entry]:
    contents = st.builds(_content, st.integers(0, 255), sizes(chunk_size))
    return contents.map(lambda data: File(name, data))


def _content(seed: int, size: int) -> bytes:
    """Bytes that differ from block to block, so that one from the wrong place is noticed."""
    return b"".join(bytes([seed, index & 255]) * 32 for index in range(size // 64 + 1))[:size]


def _symlink(name: str) -> st.SearchStrategy[Entry]:
    targets = st.sampled_from(["a", "../b", "/usr/bin/x", "x" * 300, "é"])
    return targets.map(lambda target: Symlink(name, target))


def _device(name: str) -> st.SearchStrategy[Entry]:
    return st.builds(Device, st.just(name), st.integers(0, 4095), st.integers(0, 2**20 - 1), st.booleans())
