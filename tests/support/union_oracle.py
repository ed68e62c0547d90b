"""Merge layers the slow and obvious way: one dict of paths, as `umoci unpack` goes about a directory.

`Layer` takes what `LayerIndex` takes; `merge_plainly` is what `merge` is compared with, and `look_at` sees a
`Tree` as `Merged.look` sees a dict. No limits are checked here but those that only merging can meet.
"""

import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from crfs._native.index import Tree
from crfs.errors import FormatError

_SYMLINKS_MAX = 40
_NAME_MAX = 255
_DEPTH_MAX = 2048
_OPAQUE = b".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a file and where it lies; `layer` is the place in the stack."""

    file_off: int
    size: int
    layer: int
    blob_off: int
    blob_end: int
    inner_off: int
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a tree shows of one path; `names` are the paths of the same inode."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    nlink: int
    link: bytes
    xattrs: Mapping[bytes, bytes]
    pieces: tuple[Piece, ...]
    names: frozenset[bytes]


@dataclass(eq=False, slots=True)
class Object:
    """An entry that is an object of its own, or, with `implied`, a directory that no entry is about."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: int = 0
    link: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    implied: bool = False

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True, slots=True)
class _Link:
    target: bytes


class Layer:
    """The entries of one layer in their order. The methods are LayerIndex's."""

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, Object | _Link]] = []
        self._data_end = 0

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
    ) -> None:
        sizes = {stat.S_IFREG: size, stat.S_IFLNK: len(link)}
        real = sizes.get(stat.S_IFMT(mode), 0)
        made = Object(mode, uid, gid, real, mtime_ns, rdev, link if stat.S_ISLNK(mode) else b"", xattrs or {})
        self.entries.append((clean(path), made))

    def add_hardlink(self, path: bytes, target: bytes) -> None:
        self.entries.append((clean(path), _Link(clean(target))))

    def add_chunk(
        self, file_off: int, size: int, blob_off: int, inner_off: int, digest: bytes | None
    ) -> None:
        path, owner = self.entries[-1]
        if posixpath.basename(path).startswith(b".wh."):
            return
        assert isinstance(owner, Object)
        owner.pieces.append(Piece(file_off, size, 0, blob_off, 0, inner_off, digest))

    def seal(self, data_end: int) -> None:
        self._data_end = data_end

    def placed(self, number: int) -> Iterator[tuple[bytes, Object | _Link]]:
        """The entries, with the chunks' ends and `number` as their layer."""
        offs = [piece.blob_off for _, entry in self.entries for piece in _pieces(entry)]
        for path, entry in self.entries:
            if isinstance(entry, _Link):
                yield path, entry
                continue
            pieces = [
                Piece(
                    piece.file_off,
                    piece.size,
                    number,
                    piece.blob_off,
                    min([off for off in offs if off > piece.blob_off], default=self._data_end),
                    piece.inner_off,
                    piece.digest,
                )
                for piece in entry.pieces
            ]
            yield (
                path,
                Object(
                    entry.mode,
                    entry.uid,
                    entry.gid,
                    entry.size,
                    entry.mtime_ns,
                    entry.rdev,
                    entry.link,
                    entry.xattrs,
                    pieces,
                ),
            )


def _pieces(entry: Object | _Link) -> Sequence[Piece]:
    return entry.pieces if isinstance(entry, Object) else ()


def clean(path: bytes) -> bytes:
    """A path below the root, as posixpath sees it; b"" is the root."""
    return posixpath.normpath(b"/" + path.lstrip(b"/"))[1:]


@dataclass(eq=False, slots=True)
class _Name:
    """A name of an object; None stands for a hard link's object that is yet to come."""

    object: Object | None


@dataclass(eq=False, slots=True)
class _Waiting:
    path: bytes
    name: _Name
    target: bytes


class Merged:
    """What is there after some layers. `rebound`: a hard link found its target only behind itself."""

    def __init__(self) -> None:
        self.names: dict[bytes, _Name] = {b"": _Name(_implied())}
        self.rebound = False
        self._touched: set[bytes] = set()
        self._waiting: list[_Waiting] = []

    def lay(self, entries: Iterator[tuple[bytes, Object | _Link]]) -> None:
        """Lay one layer over the tree. FormatError for what can't be."""
        self._touched, self._waiting = set(), []
        for path, entry in entries:
            name = posixpath.basename(path)
            if name.startswith(b".wh."):
                self._mark(posixpath.dirname(path), name)
            elif isinstance(entry, _Link):
                self._link(path, entry.target)
            else:
                self._place(path, entry)
        for link in list(self._waiting):
            self._settle(link)

    def look(self) -> dict[bytes, Seen]:
        """All paths."""
        paths: dict[int, set[bytes]] = {}
        for path, name in self.names.items():
            paths.setdefault(id(name.object), set()).add(path)
        return {path: self._see(path, frozenset(paths[id(name.object)])) for path, name in self.names.items()}

    def implied(self) -> set[bytes]:
        """The paths of implied directories."""
        return {path for path, name in self.names.items() if name.object and name.object.implied}

    def _see(self, path: bytes, names: frozenset[bytes]) -> Seen:
        at = self._get(path)
        assert at is not None
        nlink = len(names)
        if at.is_dir:
            nlink = 2 + sum(self._is_dir(child) for child in self._children(path))
        return Seen(
            at.mode,
            at.uid,
            at.gid,
            at.size,
            at.mtime_ns,
            at.rdev,
            nlink,
            at.link,
            at.xattrs,
            tuple(at.pieces),
            names,
        )

    def _get(self, path: bytes) -> Object | None:
        name = self.names.get(path)
        return name.object if name else None

    def _is_dir(self, path: bytes) -> bool:
        found = self._get(path)
        return found is not None and found.is_dir

    def _children(self, path: bytes) -> list[bytes]:
        return [child for child in self.names if child and posixpath.dirname(child) == path]

    def _remove(self, path: bytes) -> None:
        for below in [name for name in self.names if name == path or name.startswith(path + b"/")]:
            del self.names[below]

    def _resolve(self, path: bytes) -> bytes:
        """A directory's path without symbolic links, which never lead out of the root (SecureJoin)."""
        todo, done, links = path.split(b"/"), list[bytes](), 0
        while todo:
            part = todo.pop(0)
            if part == b"..":
                done = done[:-1]
            elif part not in (b"", b"."):
                if len(part) > _NAME_MAX:
                    raise FormatError(f"{path!r} is behind a name that no file can have")
                found = self._get(b"/".join([*done, part]))
                if found is None or not found.is_symlink:
                    done.append(part)
                    continue
                links += 1
                if links > _SYMLINKS_MAX:
                    raise FormatError(f"{path!r} is behind too many symbolic links")
                done = [] if found.link.startswith(b"/") else done
                todo = found.link.split(b"/") + todo
        return b"/".join(done)

    def _make_dir(self, path: bytes) -> bytes:
        """Make the directory `path` and its parents; its path without symbolic links."""
        real = self._resolve(path)
        parts = real.split(b"/") if real else []
        if len(parts) >= _DEPTH_MAX:
            raise FormatError(f"{path[:80]!r} is too deep")
        for count in range(1, len(parts) + 1):
            at = b"/".join(parts[:count])
            if not self._is_dir(at):
                self._remove(at)
                self.names[at] = _Name(_implied())
            self._touched.add(at)
        return real

    def _place(self, path: bytes, entry: Object) -> None:
        if not path:
            self.names[b""].object = entry
            return
        path = _join(self._make_dir(posixpath.dirname(path)), posixpath.basename(path))
        self._touched.add(path)
        if entry.is_dir and self._is_dir(path):
            self.names[path].object = entry
            return
        self._remove(path)
        self.names[path] = _Name(entry)

    def _mark(self, parent: bytes, name: bytes) -> None:
        if name == _OPAQUE:
            for child in self._children(self._resolve(parent)):
                self._hide(child)
        elif not name.startswith(b".wh..wh.") and name != b".wh.":
            self._hide(_join(self._resolve(parent), name.removeprefix(b".wh.")))

    def _hide(self, path: bytes) -> None:
        if path not in self._touched:
            if path in self.names:
                self._remove(path)
        elif self._is_dir(path):
            for child in self._children(path):
                self._hide(child)

    def _link(self, path: bytes, target: bytes) -> None:
        real = self._find(target)
        found = self._get(real) if real is not None else None
        if found is not None and found.is_dir:
            found = None
        settled = found is not None and self._is_own(real)
        path = _join(self._make_dir(posixpath.dirname(path)), posixpath.basename(path))
        self._touched.add(path)
        self._remove(path)
        self.names[path] = _Name(found)
        if not settled:
            self._waiting.append(_Waiting(path, self.names[path], target))

    def _find(self, target: bytes) -> bytes | None:
        """A hard link's target without symbolic links on its way; None if it is behind a loop of them."""
        try:
            return _join(self._resolve(posixpath.dirname(target)), posixpath.basename(target))
        except FormatError:
            return None

    def _is_own(self, path: bytes | None) -> bool:
        """Whether this layer has brought what `path` names, and it isn't waiting for its own target."""
        name = self.names.get(path) if path is not None else None
        return (
            name is not None
            and path in self._touched
            and all(name is not link.name for link in self._waiting)
        )

    def _settle(self, link: _Waiting, *behind: _Waiting) -> None:
        """Bind a hard link to what its target is now, each behind the one that it points to."""
        if link not in self._waiting or link in behind:
            return
        real = self._find(link.target)
        for other in list(self._waiting):
            if real is not None and other.name is self.names.get(real):
                self._settle(other, link, *behind)
        self._waiting.remove(link)
        if self.names.get(link.path) is not link.name:
            return
        real = self._find(link.target)
        found = self._get(real) if real is not None else None
        if found is not None and not found.is_dir and self._is_own(real) and real != link.path:
            self.rebound = self.rebound or found is not link.name.object
            link.name.object = found
        elif link.name.object is None:
            raise FormatError(f"{link.path!r} is a hard link to {link.target!r}, which is not there")


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _implied() -> Object:
    return Object(stat.S_IFDIR | 0o755, implied=True)


def merge_plainly(layers: Sequence[Layer]) -> Merged:
    """The tree of `layers`, bottom first; FormatError where there is none."""
    merged = Merged()
    for number, layer in enumerate(layers):
        merged.lay(layer.placed(number))
    return merged


def look_at(tree: Tree) -> dict[bytes, Seen]:
    """All paths of a tree, which is walked by its own directories."""
    inodes = dict(_walk(tree, 1, b""))
    paths: dict[int, set[bytes]] = {}
    for path, inode in inodes.items():
        paths.setdefault(inode, set()).add(path)
    assert sorted(paths) == list(range(1, tree.inodes + 1))
    return {path: _see_inode(tree, inode, frozenset(paths[inode])) for path, inode in inodes.items()}


def _walk(tree: Tree, inode: int, path: bytes) -> Iterator[tuple[bytes, int]]:
    yield path, inode
    for name, child, mode in tree.entries(inode, 0, 1 << 31):
        assert tree.find(inode, name) == child
        if stat.S_ISDIR(mode):
            assert tree.parent(child) == inode
            yield from _walk(tree, child, _join(path, name))
        else:
            yield _join(path, name), child


def _see_inode(tree: Tree, inode: int, names: frozenset[bytes]) -> Seen:
    at = tree.attributes(inode)
    link = tree.readlink(inode) if stat.S_ISLNK(at.mode) else b""
    ids = [place[0] for place in tree.cover(inode, 0, at.size)] if stat.S_ISREG(at.mode) else []
    chunks = [tree.chunk(chunk) for chunk in ids if chunk >= 0]
    pieces = tuple(Piece(*chunk[1:]) for chunk in chunks)
    return Seen(
        at.mode,
        at.uid,
        at.gid,
        at.size,
        at.mtime_ns,
        at.rdev,
        at.nlink,
        link,
        tree.xattrs(inode),
        pieces,
        names,
    )
