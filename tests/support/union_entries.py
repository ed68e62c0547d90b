"""Entries of layers as values: fed to an index or to the oracle, written as a tar, drawn at random.

`feed` gives every file of some size one chunk, at an offset that is its `mark`; in a tar, its bytes are the
mark's digits.
"""

import io
import stat
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hypothesis import strategies as st

from crfs._native.layerindex import LayerIndex
from tests.support.union_oracle import Layer

DATA_END = 1 << 32


class Builder(Protocol):
    """What LayerIndex and the oracle's Layer have in common."""

    def add(
        self,
        path: bytes,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime_ns: int,
        rdev: int,
        link: bytes,
        xattrs: Mapping[bytes, bytes] | None,
    ) -> None: ...

    def add_hardlink(self, path: bytes, target: bytes) -> None: ...

    def add_chunk(
        self, file_off: int, size: int, blob_off: int, inner_off: int, digest: bytes | None
    ) -> None: ...

    def seal(self, data_end: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tar. A hard link has a `target` and mode 0."""

    path: bytes
    mode: int
    target: bytes = b""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    rdev: int = 0
    mark: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)

    def feed(self, builder: Builder) -> None:
        """Add the entry to a layer."""
        if not self.mode:
            builder.add_hardlink(self.path, self.target)
            return
        size = len(self.data)
        builder.add(
            self.path,
            self.mode,
            self.uid,
            self.gid,
            size,
            self.mtime_ns,
            self.rdev,
            self.target,
            self.xattrs or None,
        )
        if size:
            builder.add_chunk(0, size, self.mark, 0, None)

    @property
    def data(self) -> bytes:
        """A file's bytes."""
        return b"%d" % self.mark if stat.S_ISREG(self.mode) and self.mark else b""

    def write(self, tar: tarfile.TarFile) -> None:
        """Append the entry to a tar."""
        info = tarfile.TarInfo(self.path.decode("utf-8", "surrogateescape"))
        info.type = _TAR_TYPES[stat.S_IFMT(self.mode)]
        info.linkname = self.target.decode("utf-8", "surrogateescape")
        info.mode, info.uid, info.gid = stat.S_IMODE(self.mode), self.uid, self.gid
        info.size, info.mtime = len(self.data), self.mtime_ns // 10**9
        info.pax_headers = {
            f"SCHILY.xattr.{key.decode()}": text.decode() for key, text in self.xattrs.items()
        }
        tar.addfile(info, io.BytesIO(self.data))


_TAR_TYPES = {
    0: tarfile.LNKTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def directory(path: bytes, mode: int = 0o750, mtime_ns: int = 7 * 10**9, uid: int = 3) -> Entry:
    return Entry(path, stat.S_IFDIR | mode, uid=uid, gid=4, mtime_ns=mtime_ns)


def file(path: bytes, mark: int = 0, mode: int = 0o640, mtime_ns: int = 9 * 10**9) -> Entry:
    return Entry(path, stat.S_IFREG | mode, uid=5, gid=6, mtime_ns=mtime_ns, mark=mark)


def symlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target)


def fifo(path: bytes) -> Entry:
    return Entry(path, stat.S_IFIFO | 0o600)


def hardlink(path: bytes, target: bytes) -> Entry:
    return Entry(path, 0, target)


def whiteout(path: bytes) -> Entry:
    """The mark that hides `path`."""
    parent, slash, name = path.rpartition(b"/")
    return file(parent + slash + b".wh." + name)


def opaque(path: bytes) -> Entry:
    """The mark that hides all that lower layers have in the directory `path`."""
    return file(path + b"/.wh..wh..opq")


def indexed(entries: Sequence[Entry]) -> LayerIndex:
    """A sealed index."""
    index = LayerIndex()
    _feed(index, entries)
    return index


def plain(entries: Sequence[Entry]) -> Layer:
    """The same for the oracle."""
    layer = Layer()
    _feed(layer, entries)
    return layer


def _feed(builder: Builder, entries: Sequence[Entry]) -> None:
    for entry in entries:
        entry.feed(builder)
    builder.seal(DATA_END)


def tarred(entries: Sequence[Entry]) -> bytes:
    """An uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            entry.write(tar)
    return out.getvalue()


# few names, so that entries meet
_NAMES = st.sampled_from([b"a", b"b", b"c", b"l"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(b"/".join)
_TARGETS = st.sampled_from(
    [
        b"a",
        b"b",
        b"/a",
        b"/a/b",
        b"../a",
        b"../../b",
        b"c/..",
        b"a/../b",
        b".",
        b"..",
        b"/",
        b"l",
        b"./b//c/",
        b"l/../c",
    ]
)
_MARKS = st.integers(1, 999)
_XATTRS = st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.sampled_from([b"1", b"22"]), max_size=2)


@st.composite
def _directories(draw: st.DrawFn) -> Entry:
    path = draw(st.one_of(_PATHS, _PATHS, _PATHS, st.just(b".")))
    return Entry(
        path,
        stat.S_IFDIR | draw(st.sampled_from([0o755, 0o1777, 0o700])),
        uid=draw(st.integers(0, 3)),
        mtime_ns=draw(st.integers(1, 9)) * 10**9,
        xattrs=draw(_XATTRS),
    )


@st.composite
def _files(draw: st.DrawFn) -> Entry:
    return Entry(
        draw(_PATHS),
        stat.S_IFREG | draw(st.sampled_from([0o644, 0o4755])),
        gid=draw(st.integers(0, 3)),
        mtime_ns=draw(st.integers(1, 9)) * 10**9,
        mark=draw(_MARKS),
        xattrs=draw(_XATTRS),
    )


def _entries(hardlinks: int) -> st.SearchStrategy[Entry]:
    kinds: dict[Callable[[], st.SearchStrategy[Entry]], int] = {
        _directories: 4,
        _files: 5,
        lambda: st.builds(symlink, _PATHS, _TARGETS): 2,
        lambda: st.builds(fifo, _PATHS): 1,
        lambda: st.builds(whiteout, _PATHS): 2,
        lambda: st.builds(opaque, st.one_of(_PATHS, st.just(b"."))): 2,
        lambda: st.builds(hardlink, _PATHS, _PATHS): hardlinks,
    }
    return st.one_of([make() for make, weight in kinds.items() for _ in range(weight)])


def stacks(*, hardlinks: int = 3) -> st.SearchStrategy[list[list[Entry]]]:
    """Up to four layers of up to eight entries, of which `hardlinks` in about 16 are hard links."""
    return st.lists(st.lists(_entries(hardlinks), max_size=8), min_size=1, max_size=4)
