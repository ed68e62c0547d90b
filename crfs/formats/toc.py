"""The table of contents of stargz, eStargz and zstd:chunked layers (JSON): bytes to entries.

Pure; nothing here is trusted beyond its syntax: what a TOC may say is checked where it is indexed (layers/).
The names of the fields are those of stargz-snapshotter's docs/estargz.md, in snake case, and `chunk_type` of
containers/storage's zstd:chunked.
"""

from collections.abc import Iterator

import msgspec

from crfs.errors import FormatError

TOC_NAME = "stargz.index.json"
# the two files by which an eStargz marks the end of what is worth prefetching
PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK = LANDMARKS = (".prefetch.landmark", ".no.prefetch.landmark")
# what such a layer holds for its reader's sake, and never shows
RESERVED_NAMES = frozenset((*LANDMARKS, TOC_NAME))
TOC_DIGEST_ANNOTATION = "containerd.io/snapshot/stargz/toc.digest"
# on a descriptor of the image that has the external TOCs: of which layer it is one
LAYER_DIGEST_ANNOTATION = "containerd.io/snapshot/stargz/layer.digest"
# what the tag of that image has behind the tag of the image that it is for
EXTERNAL_SUFFIX = "-esgztoc"
MAX_TOC_SIZE = 150 << 20
# a chunk of nothing but zeros, of which no byte is in the blob
ZEROS = "zeros"

_BLOCK = 512


class TocEntry(msgspec.Struct, rename="camel", gc=False, omit_defaults=True):
    """One entry; an absent key means its zero. Offsets are bytes, `xattrs` values are raw."""

    name: str
    type: str
    size: int = 0
    modtime: str = ""
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    offset: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] | None = None
    digest: str = ""
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""
    inner_offset: int = 0
    chunk_type: str = ""


class _Toc(msgspec.Struct):
    version: int
    # raw: half a million decoded entries at once would be hundreds of megabytes
    entries: list[msgspec.Raw]


_toc = msgspec.json.Decoder(_Toc)
_entry = msgspec.json.Decoder(TocEntry)


def unpack_toc(tar: bytes) -> bytes:
    """The TOC's JSON out of the tar that a TOC member inflates to; FormatError if it is anything else."""
    name = tar[:100].rstrip(b"\0")
    try:
        size = int(tar[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise FormatError("the TOC's tar header holds no size") from error
    if name != TOC_NAME.encode() or len(tar) < _BLOCK + size:
        raise FormatError(f"the TOC's tar does not hold a whole {TOC_NAME}")
    return tar[_BLOCK : _BLOCK + size]


def iter_toc(json: bytes) -> Iterator[TocEntry]:
    """The entries in the TOC's order, decoded one at a time; FormatError unless it is a TOC of version 1."""
    try:
        toc = _toc.decode(json)
        if toc.version != 1:
            raise FormatError(f"the TOC has version {toc.version}, not 1")
        for raw in toc.entries:
            yield _entry.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the TOC is malformed: {error}") from error
