"""A small image of three layers that has every strange thing a layer may hold, built in seconds.

Left out, since a TOC or a Go program can't carry them: names that are not UTF-8 (see rawnames.py),
hard links to other layers' files, sockets, sparse entries.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from benches.recipes.layertar import MTIME, LayerTar, layer_tar, noise, xattrs

CHUNK = 4 << 20

# Directories that no layer has an entry for, and those they are made in after their own entries:
# their times are whatever the unpacking program makes them.
UNTIMED = frozenset(
    b"ducts" + below
    for below in (b"", b"/implied", b"/implied/by", b"/implied/by/a", b"/mixed", b"/mixed/implied")
)

# cap_net_bind_service=ep as the kernel keeps it (VFS_CAP_REVISION_2)
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def build_layers(into: Path) -> None:
    """Write 1.tar (the bottom) to 3.tar."""
    with layer_tar(into / "1.tar") as layer:
        for section in (_root, _kinds, _names, _times, _attributes, _sizes, _links, _ducts, _victims):
            section(layer)
    with layer_tar(into / "2.tar") as layer:
        _second(layer)
    with layer_tar(into / "3.tar") as layer:
        _third(layer)


def _root(layer: LayerTar) -> None:
    layer.directory("./", mode=0o750, uid=7, gid=8, mtime=MTIME - 1000)
    layer.directory("./etc/")
    layer.file("./etc/hostname", b"quirks\n")
    layer.directory("./tmp/", mode=0o1777)


def _kinds(layer: LayerTar) -> None:
    layer.directory("./kinds/")
    layer.file("./kinds/setuid", b"#!/bin/sh\n", mode=0o4755)
    layer.file("./kinds/setgid", b"#!/bin/sh\n", mode=0o2755, gid=5)
    layer.file("./kinds/sticky", mode=0o1644)
    layer.directory("./kinds/setgid-dir", mode=0o2775, gid=5)
    layer.file("./kinds/no-mode", b"secret", mode=0)
    layer.fifo("./kinds/fifo", mode=0o600, uid=1, gid=2)
    layer.device("./kinds/null", tarfile.CHRTYPE, 1, 3, mode=0o666)
    layer.device("./kinds/wide", tarfile.CHRTYPE, 300, 70000)
    layer.device("./kinds/block", tarfile.BLKTYPE, 8, 1)
    layer.symlink("./kinds/relative", "../etc/hostname", uid=3, gid=4)
    layer.symlink("./kinds/absolute", "/etc/hostname")
    layer.symlink("./kinds/dangling", "no/such/thing")
    layer.symlink("./kinds/up", "..")
    layer.symlink("./kinds/long", "/".join(["0123456789"] * 90))


def _names(layer: LayerTar) -> None:
    layer.directory("./names/")
    for name in (
        "n" * 255, "ü" * 127, "with space", " leading", "trailing ", "new\nline", "tab\there", "back\\slash",
        'quo"te', "per%cent", "semi;colon", "co:lon", "equal=s", "-dash", "#hash", "\u202eltr", "日本語",
        "😀", "e\u0301", "\u00e9", ".wh", ".whx", ".hidden", "...", "a.wh.b", "\x01control", "\x7f",
    ):  # fmt: skip
        layer.file(f"./names/{name}", name.encode())
    layer.file("./names/.prefetch.landmark", b"\x0f")
    layer.file("./names/stargz.index.json", b"{}")
    deep = "./names"
    for level in range(30):
        deep += f"/{level:02}-" + "d" * 60
        layer.directory(deep)
    layer.file(deep + "/bottom", b"deep")


def _times(layer: LayerTar) -> None:
    layer.directory("./times/")
    for name, when in (
        ("nanoseconds", "1704164645.123456789"), ("almost-next", "1704164645.999999999"),
        ("half", "1704164645.5"), ("epoch", "0"), ("before-epoch", "-86400"), ("next-century", "4102444800"),
        ("after-2038", "2147483648"),
    ):  # fmt: skip
        layer.file(f"./times/{name}", b"t", pax_headers={"mtime": when})
    layer.directory("./times/dir-nanoseconds", pax_headers={"mtime": "1704164645.25"})
    layer.symlink("./times/symlink", "half", pax_headers={"mtime": "1600000000.75"})


def _attributes(layer: LayerTar) -> None:
    layer.directory("./attributes/", pax_headers=xattrs(user__dir=b"of a directory"))
    several = xattrs(user__text=b"hello", user__binary=bytes(range(256)))
    layer.file("./attributes/several", b"x", pax_headers=several)
    layer.file(
        "./attributes/capability", b"x", mode=0o755, pax_headers=xattrs(security__capability=_CAPABILITY)
    )
    layer.file("./attributes/trusted", b"x", pax_headers=xattrs(trusted__crfs=b"only root sees this"))
    layer.file("./attributes/large", b"x", pax_headers=xattrs(user__large=noise(1, 2000)))
    layer.file("./attributes/utf8", b"x", pax_headers={"SCHILY.xattr.user.ключ": "значение"})
    layer.symlink("./attributes/symlink", "several", pax_headers=xattrs(trusted__link=b"of a symlink"))
    layer.file("./attributes/owned", b"x", uid=1000, gid=100)
    layer.file("./attributes/high-ids", b"x", uid=3000000, gid=4000000000)
    layer.file("./attributes/named-owner", b"x", uid=33, gid=33, uname="www-data", gname="www-data")


def _sizes(layer: LayerTar) -> None:
    layer.directory("./sizes/")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 131073):
        layer.file(f"./sizes/{size}", noise(size, size))
    for size in (CHUNK - 1, CHUNK, CHUNK + 1):
        layer.file(f"./sizes/{size}", noise(size, size))
    layer.file("./sizes/zeros", bytes(3 * CHUNK + 5))


def _links(layer: LayerTar) -> None:
    for name in ("links", "links/one", "links/two"):
        layer.directory(f"./{name}")
    layer.file("./links/one/origin", b"shared by three names", uid=9, gid=9)
    layer.link("./links/two/second", "./links/one/origin")
    layer.link("./links/third", "links/two/second")
    layer.file("./links/hidden-origin", b"its first name goes in layer 2")
    layer.link("./links/survivor", "./links/hidden-origin")
    layer.file("./links/replaced-origin", b"the old content stays under the other name")
    layer.link("./links/keeps-old", "./links/replaced-origin")
    layer.symlink("./links/symlink-origin", "one/origin")
    layer.link("./links/symlink-again", "./links/symlink-origin")
    layer.fifo("./links/fifo-origin")
    layer.link("./links/fifo-again", "./links/fifo-origin")


def _ducts(layer: LayerTar) -> None:
    """Entries whose parents have no entry, and a name that comes twice."""
    layer.directory("ducts")
    layer.file("ducts/implied/by/a/file", b"its parents have no entry")
    layer.directory("ducts/mixed", mode=0o700, uid=11, gid=12)
    layer.file("ducts/mixed/implied/file", b"its parent has none, its grandparent has one")
    layer.directory("twice")
    layer.file("twice/file", b"the first")
    layer.file("twice/file", b"the last counts", mode=0o600)


def _victims(layer: LayerTar) -> None:
    """What layers 2 and 3 hide and replace."""
    for name in ("gone", "gone/deep", "opaque", "opaque/sub", "late-opaque", "merged", "to-file", "to-link"):
        layer.directory(f"./{name}")
        layer.file(f"./{name}/lower", b"of layer 1")
    layer.directory("./chmod", mode=0o711, uid=21, gid=22, mtime=MTIME - 50)
    layer.file("./chmod/lower", b"of layer 1")
    layer.directory("./kept", mode=0o711, uid=21, gid=22, mtime=MTIME - 50)
    for name in ("gone-file", "back", "to-dir", "content", "metadata", "gone-then-dir", "both", "both-late"):
        layer.file(f"./{name}", b"of layer 1", pax_headers=xattrs(user__lower=b"1"))
    layer.symlink("./link-to-dir", "merged")


def _second(layer: LayerTar) -> None:
    for name in ("gone", "gone-file", "back", "gone-then-dir", "never-was"):
        layer.whiteout(name)
    layer.whiteout("links/hidden-origin")
    layer.file("links/replaced-origin", b"the new content")
    layer.directory("opaque")
    layer.opaque("opaque")
    layer.file("opaque/upper", b"of layer 2")
    layer.directory("late-opaque", mode=0o770)
    layer.file("late-opaque/upper", b"of layer 2, before its opaque mark")
    layer.opaque("late-opaque")
    layer.directory("merged", mode=0o755, mtime=MTIME + 5)
    layer.file("merged/upper", b"of layer 2")
    layer.file("kept/upper", b"its parent has no entry in this layer")
    layer.directory("chmod", mode=0o500, mtime=MTIME + 6)
    layer.file("content", b"of layer 2, and without attributes")
    layer.file("metadata", b"of layer 1", mode=0o600, uid=1, gid=1)
    layer.whiteout("both")
    layer.file("both", b"of layer 2, after its whiteout")
    layer.file("both-late", b"of layer 2, before its whiteout")
    layer.whiteout("both-late")
    _replaced(layer)


def _replaced(layer: LayerTar) -> None:
    layer.file("to-file", b"a file over a directory")
    layer.directory("to-dir")
    layer.file("to-dir/inside", b"a directory over a file")
    layer.symlink("to-link", "merged")
    layer.directory("link-to-dir", mode=0o751)
    layer.file("link-to-dir/inside", b"a directory over a symlink")


def _third(layer: LayerTar) -> None:
    layer.file("back", b"hidden by layer 2, and here again")
    layer.directory("gone-then-dir")
    layer.file("gone-then-dir/inside", b"x")
    layer.whiteout("merged/lower")
    layer.file("merged/top", b"of layer 3")
    layer.directory("opaque")
    layer.directory("opaque/sub")
    layer.file("opaque/sub/top", b"below a directory that layer 2 made opaque")
    layer.whiteout("to-dir/inside")
    layer.directory("links")
    layer.file("links/top-origin", b"shared in layer 3")
    layer.link("links/top-again", "links/top-origin")
    layer.whiteout("kinds/fifo")
    layer.directory("etc", mode=0o755, mtime=MTIME + 7)
    layer.file("etc/hostname", b"top\n")
