"""The rules of a TOC in plain Python: what crfs._native.tocindex is compared with.

It looks at whole files, each with all of its chunks, where the kernel goes from entry to entry; where a TOC
breaks several rules, the two may name different ones.
"""

import os
import stat
from binascii import unhexlify
from collections.abc import Callable, Iterable

from crfs._native.layerindex import LayerIndex, parse_time
from crfs._native.tocindex import LossyTocError
from crfs.errors import FormatError
from crfs.formats.toc import RESERVED_NAMES, TocEntry, iter_toc

_TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}

Action = Callable[[LayerIndex], None]


def index_toc(json: bytes, toc_off: int) -> LayerIndex:
    """The index of a layer whose data ends at `toc_off`, from its TOC.

    FormatError where the TOC breaks a rule of docs/estargz.md or speaks of what no tree can hold;
    LossyTocError where it names a file that its producer could not spell.
    """
    index = LayerIndex()
    try:
        for entry, chunks in _group(iter_toc(json)):
            if _is_shown(entry):
                for action in _actions(entry, chunks):
                    action(index)
    except (OverflowError, KeyError, ValueError) as error:
        raise FormatError(f"the TOC speaks of what can't be: {error}") from error
    index.seal(toc_off)
    return index


def _group(entries: Iterable[TocEntry]) -> list[tuple[TocEntry, list[TocEntry]]]:
    """Each entry, with the `chunk` entries that belong to it: those behind the last `reg`."""
    groups: list[tuple[TocEntry, list[TocEntry]]] = []
    for entry in entries:
        if entry.type != "chunk":
            groups.append((entry, []))
        elif groups and groups[-1][0].type == "reg":
            groups[-1][1].append(entry)
        else:
            raise FormatError(f"a chunk of {entry.name!r} belongs to no file")
    return groups


def _is_shown(entry: TocEntry) -> bool:
    return entry.name.removeprefix("./").removeprefix("/") not in RESERVED_NAMES


def _actions(entry: TocEntry, chunks: list[TocEntry]) -> list[Action]:
    if "\ufffd" in entry.name + entry.link_name:
        raise LossyTocError("a name was lost")
    path, link = entry.name.encode(), entry.link_name.encode()
    if entry.type == "hardlink":
        return [lambda index: index.add_hardlink(path, link)]
    return [_node(entry, path, link), *_file_chunks(entry, chunks)]


def _node(entry: TocEntry, path: bytes, link: bytes) -> Action:
    mode = _TYPES[entry.type] | entry.mode % 0o10000
    is_device = entry.type in ("char", "block")
    rdev = os.makedev(entry.dev_major, entry.dev_minor) if is_device else 0
    xattrs = {name.encode(): value for name, value in (entry.xattrs or {}).items()}
    mtime_ns = parse_time(entry.modtime)
    return lambda index: index.add(
        path, mode, entry.uid, entry.gid, entry.size, mtime_ns, rdev, link, xattrs or None
    )


def _file_chunks(entry: TocEntry, chunks: list[TocEntry]) -> list[Action]:
    """The chunks of a file, which lie one behind the other and hold all of it."""
    if entry.type != "reg":
        return []
    actions: list[Action] = []
    place = 0
    for chunk in [entry, *chunks] if entry.size else chunks:
        size = chunk.chunk_size or entry.size - chunk.chunk_offset
        if chunk.chunk_offset != place or size <= 0 or chunk.chunk_type not in ("", "zeros"):
            raise FormatError(f"{entry.name!r} has a chunk that is not its next one")
        if not chunk.chunk_type:
            if not chunk.offset:
                raise FormatError(f"a chunk of {entry.name!r} lies nowhere")
            actions.append(_chunk(chunk, size, _digest(entry, chunk)))
        place += size
    if place != entry.size:
        raise FormatError(f"{entry.name!r} has {entry.size} bytes and chunks for {place}")
    return actions


def _chunk(chunk: TocEntry, size: int, digest: bytes | None) -> Action:
    return lambda index: index.add_chunk(chunk.chunk_offset, size, chunk.offset, chunk.inner_offset, digest)


def _digest(entry: TocEntry, chunk: TocEntry) -> bytes | None:
    """A chunk's own, or that of the file whose only chunk it is; None where there is none."""
    text = chunk.chunk_digest
    if not text and chunk is entry and entry.chunk_size in (0, entry.size):
        text = entry.digest
    if not text:
        return None
    raw = unhexlify(text.removeprefix("sha256:"))
    if not text.startswith("sha256:") or len(raw) != 32:
        raise FormatError(f"{text!r} is no SHA-256")
    return raw
