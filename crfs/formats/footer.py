"""The last bytes of a lazily readable gzip layer: an empty gzip member that says where its TOC begins.

Pure. Written by convert/, read by layers/. Three kinds exist, told apart by the gzip extra field (RFC 1952):
stargz (CRFS), eStargz and eStargz with an external TOC (stargz-snapshotter, docs/estargz.md).
"""

import enum
import re
import struct

from msgspec import Struct

_HEADER = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
# an empty, final stored block, then CRC-32 and ISIZE of nothing
_TRAILER = b"\x01\x00\x00\xff\xff" + bytes(8)
_OFFSET = re.compile(rb"[0-9a-f]{16}STARGZ")


class FooterKind(enum.Enum):
    """What a footer promises; the value is its length in bytes."""

    ESTARGZ = 51
    STARGZ = 47
    EXTERNAL_TOC = 46


class Footer(Struct, frozen=True):
    """A footer that was found: `toc_off` is a blob offset, 0 where the TOC lies elsewhere."""

    kind: FooterKind
    toc_off: int

    @property
    def size(self) -> int:
        """Length of the footer in bytes."""
        return self.kind.value


# what one GET of a blob's tail must hold at the least
MAX_FOOTER_SIZE = FooterKind.ESTARGZ.value


def _extra(kind: FooterKind, toc_off: int) -> bytes:
    text = b"%016xSTARGZ" % toc_off
    match kind:
        case FooterKind.STARGZ:
            return text
        case FooterKind.ESTARGZ:
            return b"SG" + struct.pack("<H", len(text)) + text
        case FooterKind.EXTERNAL_TOC:
            return b"SG" + struct.pack("<H", 17) + b"STARGZEXTERNALTOC"


def build_footer(kind: FooterKind, toc_off: int) -> bytes:
    """The footer's bytes; `toc_off` is not stored in an EXTERNAL_TOC footer."""
    extra = _extra(kind, toc_off)
    return _HEADER + struct.pack("<H", len(extra)) + extra + _TRAILER


def find_footer(tail: bytes) -> Footer | None:
    """The footer that `tail`, the last bytes of a blob, ends with; None where it ends with none of ours."""
    for kind in FooterKind:
        footer = tail[-kind.value :]
        digits = footer[-len(_TRAILER) - 22 : -len(_TRAILER)]
        toc_off = 0
        if kind is not FooterKind.EXTERNAL_TOC:
            if not _OFFSET.fullmatch(digits):
                continue
            toc_off = int(digits[:16], 16)
        if footer == build_footer(kind, toc_off):
            return Footer(kind, toc_off)
    return None
