"""What a layer should hold, by the entries it was made of, and what it does hold, by its index and bytes."""

import dataclasses
import os
import stat
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from crfs._native.index import Tree
from crfs._native.layerindex import LayerIndex
from crfs._native.union import merge
from tests.support.layers import Device, Dir, Entry, Fifo, File, Hardlink, Symlink
from tests.support.union_oracle import Layer, Seen, look_at, merge_plainly

_KINDS = {Dir: stat.S_IFDIR, File: stat.S_IFREG, Symlink: stat.S_IFLNK, Fifo: stat.S_IFIFO}

Looks = dict[bytes, Seen]


def expected(entries: Iterable[Entry]) -> Looks:
    """Every path of a layer of these entries, but for where its bytes lie."""
    layer = Layer()
    for entry in entries:
        _feed(layer, entry)
    layer.seal(1)
    return _placeless(merge_plainly([layer]).look())


def looks(index: LayerIndex) -> Looks:
    """Every path that an index holds, but for where its bytes lie."""
    return _placeless(look_at(Tree(merge([index]))))


def _placeless(seen: Looks) -> Looks:
    return {path: dataclasses.replace(one, pieces=()) for path, one in seen.items()}


def _feed(layer: Layer, entry: Entry) -> None:
    if isinstance(entry, Hardlink):
        layer.add_hardlink(entry.path, os.fsencode(entry.target))
        return
    kind, rdev = _KINDS.get(type(entry), stat.S_IFREG), 0
    if isinstance(entry, Device):
        kind = stat.S_IFBLK if entry.block else stat.S_IFCHR
        rdev = os.makedev(entry.major, entry.minor)
    link = os.fsencode(entry.target) if isinstance(entry, Symlink) else b""
    xattrs = {name.encode(): value for name, value in entry.xattrs.items()}
    size = len(entry.payload())
    mode = kind | entry.mode
    layer.add(entry.path, mode, entry.uid, entry.gid, size, entry.mtime_ns, rdev, link, xattrs)


def contents(index: LayerIndex, data: bytes, *, compressed: bool) -> dict[bytes, bytes]:
    """Every regular file's bytes, put together from `data`, the blob or, not `compressed`, the tar."""
    return {
        path: _content(seen, data, compressed)
        for path, seen in look_at(Tree(merge([index]))).items()
        if stat.S_ISREG(seen.mode)
    }


def _content(seen: Seen, data: bytes, compressed: bool) -> bytes:
    content = bytearray(seen.size)
    for piece in seen.pieces:
        if compressed:
            member = data[piece.blob_off : piece.blob_end]
            found = zlib.decompressobj(31).decompress(member)[piece.inner_off :][: piece.size]
        else:
            found = data[piece.blob_off : piece.blob_off + piece.size]
        assert len(found) == piece.size
        content[piece.file_off : piece.file_off + piece.size] = found
    return bytes(content)


def payloads(entries: Iterable[Entry]) -> dict[bytes, bytes]:
    """Every regular file's bytes, by what the layer was made of; the entries are unlike in name."""
    found: dict[bytes, bytes] = {}
    for entry in entries:
        if isinstance(entry, File):
            found[entry.path] = entry.data
        elif isinstance(entry, Hardlink) and os.fsencode(entry.target) in found:
            found[entry.path] = found[os.fsencode(entry.target)]
    return found


def tarfile_payloads(path: Path) -> dict[bytes, bytes]:
    """Every regular file's bytes as Python's tarfile reads them, holes included."""
    found = {}
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            if info.isreg():
                file = tar.extractfile(info)
                assert file is not None
                found[os.fsencode(info.name)] = file.read()
    return found
