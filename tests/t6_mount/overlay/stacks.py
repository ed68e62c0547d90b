"""Stacks of plain directories to mount overlays on, built from nothing; the names below are what tests use.

A stack is a list of functions, bottom first, each of which fills a directory. Whiteouts and opaque marks are the
kernel's: character devices 0:0 and trusted.overlay.opaque. All times are long ago and differ from each other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LONG = b"L" * 255
LONG_UTF8 = "ü".encode() * 127
_EPOCH_NS = 1_000_000_000_123_456_789
_APART_NS = 86_400_000_000_007


@dataclass(frozen=True, slots=True)
class Layer:
    """A directory being filled. Parents must have been made."""

    root: Path

    def _at(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.root), path)

    def directory(self, path: bytes, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        os.mkdir(self._at(path))
        self._finish(path, mode, owner)

    def file(
        self,
        path: bytes,
        data: bytes = b"",
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        holes: int = 0,
    ) -> None:
        """`data`, with `holes` bytes that take no space before and after it."""
        with open(self._at(path), "wb") as file:
            file.seek(holes)
            file.write(data)
            file.truncate(2 * holes + len(data))
        self._finish(path, mode, owner)

    def node(
        self, path: bytes, mode: int, device: tuple[int, int] = (0, 0), owner: tuple[int, int] = (0, 0)
    ) -> None:
        os.mknod(self._at(path), mode, os.makedev(*device))
        self._finish(path, stat.S_IMODE(mode), owner)

    def symlink(self, target: bytes, path: bytes, owner: tuple[int, int] = (0, 0)) -> None:
        os.symlink(target, self._at(path))
        os.lchown(self._at(path), *owner)

    def link(self, source: bytes, path: bytes) -> None:
        os.link(self._at(source), self._at(path))

    def whiteout(self, path: bytes) -> None:
        os.mknod(self._at(path), stat.S_IFCHR, os.makedev(0, 0))

    def opaque(self, path: bytes) -> None:
        self.xattr(path, "trusted.overlay.opaque", b"y")

    def xattr(self, path: bytes, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def _finish(self, path: bytes, mode: int, owner: tuple[int, int]) -> None:
        os.lchown(self._at(path), *owner)
        os.chmod(self._at(path), mode)


Stack = Sequence[Callable[[Layer], None]]


def build(stack: Stack, base: Path) -> tuple[Path, ...]:
    """The directories of a stack below `base`, bottom first."""
    layers = []
    for number, fill in enumerate(stack):
        root = base / f"layer{number}"
        root.mkdir(parents=True)
        root.chmod(0o755)
        fill(Layer(root))
        _age(root, _EPOCH_NS + number * 1000 * _APART_NS)
        layers.append(root)
    return tuple(layers)


def _age(root: Path, start_ns: int) -> None:
    """Give all that is there its time; directories after what is in them."""
    at_ns = start_ns
    for directory, names, files in os.walk(os.fsencode(root), topdown=False):
        for path in [*(os.path.join(directory, name) for name in sorted(names + files)), directory]:
            at_ns += _APART_NS
            os.utime(path, ns=(at_ns, at_ns), follow_symlinks=False)


def small(layer: Layer) -> None:
    """A few names of every type, most of which are also the names that tests make."""
    layer.file(b"file", b"lower bytes\n")
    layer.file(b"a", b"a" * 5000, 0o4755)
    layer.file(b"private", b"of another\n", 0o600, (1000, 1000))
    layer.directory(b"dir")
    layer.file(b"dir/file", b"in a directory\n")
    layer.file(b"dir/b", b"", 0o666)
    layer.directory(b"dir/sub")
    layer.file(b"dir/sub/c", b"deeper\n")
    layer.directory(b"dir/sub/empty")
    layer.directory(b"empty", 0o700)
    layer.symlink(b"file", b"to-file")
    layer.symlink(b"dir", b"to-dir")
    layer.symlink(b"nowhere", b"dangling", (1000, 1000))
    layer.symlink(b"/dir/sub", b"absolute")
    layer.symlink(b"../file", b"dir/up")
    layer.symlink(b"loop", b"loop")


def _owned(layer: Layer) -> None:
    """Directories with special bits, for the rules of owners and groups."""
    layer.directory(b"tmp", 0o1777)
    layer.file(b"tmp/roots", b"r", 0o666)
    layer.file(b"tmp/users", b"u", 0o644, (1000, 1000))
    layer.directory(b"tmp/d", 0o777, (1001, 1001))
    layer.file(b"tmp/d/x", b"x", 0o644, (1000, 1000))
    layer.directory(b"group", 0o2777, (0, 2000))
    layer.file(b"group/file", b"g" * 100, 0o2775, (1000, 2000))
    layer.directory(b"group/sub", 0o2770, (1001, 2000))
    layer.directory(b"home", 0o755, (1000, 1000))
    layer.file(b"home/suid", b"s", 0o6755, (1000, 1000))
    layer.file(b"home/read-only", b"ro", 0o444, (1000, 1000))
    layer.directory(b"home/closed", 0o700, (1000, 1000))
    layer.file(b"home/closed/x", b"x", 0o644, (1000, 1000))
    layer.symlink(b"closed", b"home/to-closed", (1000, 1000))


def _odd(layer: Layer) -> None:
    """Nodes, xattrs, holes, and long names."""
    layer.node(b"fifo", stat.S_IFIFO | 0o666)
    layer.node(b"null", stat.S_IFCHR | 0o666, (1, 3))
    layer.file(LONG, b"a long name\n")
    layer.directory(LONG_UTF8, 0o777)
    layer.file(LONG_UTF8 + b"/" + LONG, b"two long names\n")
    layer.file(b"sparse", b"middle", holes=1 << 20)
    layer.file(b"large", b"0123456789abcdef" * 20_000)
    layer.directory(b"x", 0o777)
    layer.file(b"x/user", b"1", 0o666)
    layer.xattr(b"x/user", "user.a", b"value")
    layer.xattr(b"x/user", "user.empty", b"")
    layer.xattr(b"x/user", "user.large", b"v" * 3000)
    layer.xattr(b"x", "user.a", b"of a directory")
    layer.xattr(b"x", "trusted.t", b"root only")
    layer.symlink(b"user", b"x/link")
    layer.xattr(b"x/link", "trusted.t", b"of a symlink")
    layer.file(b"x/caps", b"", 0o755)
    layer.xattr(b"x/caps", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    layer.file(b"x/other", b"2")
    layer.xattr(b"x/other", "security.s", b"s")


def _rich(layer: Layer) -> None:
    small(layer)
    _owned(layer)
    _odd(layer)


def _changes(layer: Layer) -> None:
    """Over `_rich`: all that a layer can do to the one below."""
    layer.file(b"a", b"replaced", 0o600, (1000, 1000))
    layer.whiteout(b"private")
    layer.whiteout(b"never-was")
    layer.directory(b"dir", 0o777, (1000, 0))
    layer.whiteout(b"dir/file")
    layer.file(b"dir/new", b"new\n")
    layer.directory(b"dir/sub", 0o750)
    layer.opaque(b"dir/sub")
    layer.file(b"dir/sub/d", b"d")
    # a directory over a file, a file over a directory, a symlink over a file
    layer.directory(b"file", 0o777)
    layer.file(b"file/inside", b"i")
    layer.file(b"empty", b"not a directory any more", 0o666)
    layer.symlink(b"dir/new", b"fifo")
    layer.directory(b"tmp", 0o1777)
    layer.whiteout(b"tmp/users")
    layer.file(b"tmp/more", b"m", 0o666, (1001, 1001))
    layer.directory(b"x", 0o755, (1000, 1000))
    layer.xattr(b"x", "user.b", b"replaces all")
    # nothing but whiteouts, all of which hide something
    layer.directory(b"home", 0o755, (1000, 1000))
    for name in (b"suid", b"read-only", b"closed", b"to-closed"):
        layer.whiteout(b"home/" + name)


def _more_changes(layer: Layer) -> None:
    """Over both: names that were hidden are back, and others go."""
    layer.file(b"private", b"another one", 0o644, (1000, 1000))
    layer.directory(b"dir", 0o777)
    layer.directory(b"dir/file", 0o777)
    layer.file(b"dir/file/x", b"x")
    layer.whiteout(b"dir/new")
    layer.directory(b"dir/sub", 0o777)
    layer.file(b"dir/sub/c", b"again")
    layer.whiteout(b"dir/sub/d")
    layer.whiteout(b"file")
    layer.whiteout(b"to-dir")
    layer.directory(b"group", 0o2775, (1000, 2000))
    layer.opaque(b"group")
    layer.directory(b"deep")
    layer.directory(b"deep/only-here")
    layer.whiteout(LONG)


def _deep(layer: Layer) -> None:
    """Directories in directories, and one of many names."""
    path = b"d"
    layer.directory(path, 0o777)
    for _ in range(12):
        layer.file(path + b"/f", path, 0o666)
        path += b"/d"
        layer.directory(path, 0o777)
    layer.symlink(b"/d/d/d", path + b"/up")
    layer.directory(b"wide", 0o777)
    for number in range(150):
        layer.file(b"wide/%03d-%s" % (number, b"n" * (number % 40)), b"%d" % number)
    layer.directory(b"a")
    layer.directory(b"b")
    layer.file(b"a/x", b"lower x")
    layer.file(b"b/y", b"lower y")
    # no image has sockets
    layer.node(b"socket", stat.S_IFSOCK | 0o755, owner=(1000, 1000))


def _deep_changes(layer: Layer) -> None:
    layer.directory(b"d", 0o777)
    layer.directory(b"d/d", 0o777)
    layer.directory(b"d/d/d", 0o777)
    layer.file(b"d/d/d/f", b"replaced in the middle")
    layer.directory(b"wide", 0o777)
    for number in range(0, 150, 3):
        layer.whiteout(b"wide/%03d-%s" % (number, b"n" * (number % 40)))
    for number in range(20):
        layer.file(b"wide/%03d-more" % number, b"more")
    layer.directory(b"b")
    layer.file(b"b/x", b"upper x")


def _links(layer: Layer) -> None:
    """Files of several names, in one directory and in several."""
    small(layer)
    layer.directory(b"one", 0o777)
    layer.directory(b"two", 0o777)
    layer.file(b"one/a", b"three names\n", 0o666)
    layer.link(b"one/a", b"one/b")
    layer.link(b"one/a", b"two/a")
    layer.file(b"two/pair", b"two names\n", 0o644, (1000, 1000))
    layer.link(b"two/pair", b"pair")
    layer.xattr(b"pair", "user.a", b"shared")
    layer.node(b"one/fifo", stat.S_IFIFO | 0o666)
    layer.link(b"one/fifo", b"two/fifo")
    layer.symlink(b"../file", b"one/link")
    layer.link(b"one/link", b"two/link")
    layer.link(b"dir/sub/c", b"two/c")


def _beside_links(layer: Layer) -> None:
    """A layer above that merges with the directories of the links, and hides none of their names."""
    layer.directory(b"one", 0o777)
    layer.file(b"one/own", b"o", 0o666)
    layer.directory(b"two", 0o1777)
    layer.file(b"two/own", b"o", 0o666)
    layer.link(b"two/own", b"two/own-too")


def _moved_links(layer: Layer) -> None:
    """A layer above both that moved the directories of the links, into each other."""
    layer.directory(b"two", 0o777)
    layer.directory(b"two/uno", 0o777)
    layer.xattr(b"two/uno", "trusted.overlay.redirect", b"/one")
    layer.whiteout(b"one")
    layer.directory(b"dir", 0o777)
    layer.directory(b"dir/below", 0o755)
    layer.xattr(b"dir/below", "trusted.overlay.redirect", b"sub")
    layer.whiteout(b"dir/sub")


def _moved(layer: Layer) -> None:
    """Over `_rich`: directories that were renamed, as overlayfs marks them, within their parent and away from it."""
    layer.directory(b"moved", 0o777)
    layer.xattr(b"moved", "trusted.overlay.redirect", b"dir")
    layer.whiteout(b"dir")
    layer.file(b"moved/new", b"n")
    layer.directory(b"moved/deeper", 0o777)
    layer.xattr(b"moved/deeper", "trusted.overlay.redirect", b"/x")
    layer.whiteout(b"x")
    layer.whiteout(b"moved/deeper/other")
    # where a directory was, there is another that has nothing of it
    layer.directory(b"home", 0o777)
    layer.opaque(b"home")
    layer.directory(b"home/old", 0o755, (1000, 1000))
    layer.xattr(b"home/old", "trusted.overlay.redirect", b"/home")


def hollow(layer: Layer) -> None:
    """Whiteouts in a directory that no other layer has: the kernel's readdir shows them, its lookup does not."""
    layer.directory(b"hollow", 0o777)
    layer.whiteout(b"hollow/one")
    layer.whiteout(b"hollow/two")


def _tenth(number: int) -> Callable[[Layer], None]:
    """Over `small`, the numbered one of many: each changes what the one below has, and some hide what was two below."""

    def fill(layer: Layer) -> None:
        own = b"%d" % number
        layer.directory(b"dir", 0o777)
        layer.file(b"dir/" + own, b"only in layer %d\n" % number, 0o666)
        layer.file(b"each", b"layer %d\n" % number, 0o666, (1000, 1000))
        layer.directory(b"dir/sub", 0o700 + number)
        layer.directory(b"deep", 0o777)
        if number % 3 == 0:
            layer.whiteout(b"dir/%d" % (number - 1))
            layer.opaque(b"dir/sub")
            layer.file(b"dir/sub/c", own)
        if number % 4 == 0:
            layer.file(b"deep/turns", b"a file")
        elif number % 4 == 1:
            layer.whiteout(b"deep/turns")
        else:
            layer.directory(b"deep/turns", 0o777)
            layer.file(b"deep/turns/" + own, own)
        layer.directory(b"dir/at%d" % number, 0o777)
        if number > 1:
            layer.xattr(b"dir/at%d" % number, "trusted.overlay.redirect", b"at%d" % (number - 1))
            layer.whiteout(b"dir/at%d" % (number - 1))
        layer.file(b"dir/at%d/" % number + own, own)

    return fill


STACKS: dict[str, Stack] = {
    "small": [small],
    "rich": [_rich],
    "layered": [_rich, _changes, _more_changes],
    "moved": [_rich, _moved],
    "deep": [_deep, _deep_changes],
    "ten": [small, *map(_tenth, range(1, 10))],
    "links": [_links, _beside_links],
    "moved links": [_links, _beside_links, _moved_links],
}
# those with files of several names, which the kernel keeps together only with an index
LINKED = frozenset({"links", "moved links"})
# of those that can be images of as many layers (no sockets, nothing moved), the ones of most kinds
IMAGES = ("rich", "layered", "links")
# those without marks of root's, which nobody else reads
UNMARKED = frozenset({"small", "rich", "deep", "links"})
