"""Where a zstd:chunked layer keeps its TOC: the footers, skippable frames and annotations of its dialects.

Pure. Two dialects have each a footer and a set of annotations: containers/storage (podman, buildah, skopeo) and
stargz-snapshotter. Older releases of the former wrote a mixture, so whoever reads goes by what is there.
The TOC is JSON, compressed with zstd, as the data of a skippable frame (RFC 8878, 3.1.2).
"""

import enum
import re
import struct
from collections.abc import Mapping

from msgspec import Struct

from crfs.errors import FormatError

_SKIPPABLE = b"\x50\x2a\x4d\x18"
FRAME_HEADER_SIZE = 8
# the only type of a TOC that has been defined
_TYPE = 1
_POSITION = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19})")


class Dialect(enum.Enum):
    """Who reads it; the value is what the names of its annotations begin with."""

    PODMAN = "io.github.containers.zstd-chunked"
    STARGZ = "io.containers.zstd-chunked"


_MAGIC = {Dialect.PODMAN: b"GNUlInUx", Dialect.STARGZ: b"GnUlInUx"}
# of the payload and the magic
_FOOTER_SIZES = {Dialect.PODMAN: 64, Dialect.STARGZ: 40}
MAX_FOOTER_SIZE = max(_FOOTER_SIZES.values()) + FRAME_HEADER_SIZE


class Place(Struct, frozen=True):
    """A compressed document in a blob: `off` behind the header of its frame, sizes in bytes."""

    off: int
    size: int
    unpacked_size: int


_NOWHERE = Place(0, 0, 0)


def skippable_frame(data: bytes) -> bytes:
    """`data` as a frame that decoders pass over."""
    return _SKIPPABLE + struct.pack("<I", len(data)) + data


def build_footer(dialect: Dialect, toc: Place, tar_split: Place = _NOWHERE) -> bytes:
    """The last frame of a blob; `tar_split` is podman's."""
    numbers = [toc.off, toc.size, toc.unpacked_size, _TYPE]
    if dialect is Dialect.PODMAN:
        numbers += [tar_split.off, tar_split.size, tar_split.unpacked_size]
    return skippable_frame(struct.pack(f"<{len(numbers)}Q", *numbers) + _MAGIC[dialect])


def find_place(tail: bytes) -> Place | None:
    """Where the TOC lies, by the footer that `tail`, the last bytes of a blob, ends with; None without one."""
    for dialect, size in _FOOTER_SIZES.items():
        footer = tail[-size - FRAME_HEADER_SIZE :]
        if len(footer) == size + FRAME_HEADER_SIZE and footer.endswith(_MAGIC[dialect]):
            off, packed, unpacked, kind = struct.unpack_from("<4Q", footer, FRAME_HEADER_SIZE)
            if footer[:FRAME_HEADER_SIZE] == _SKIPPABLE + struct.pack("<I", size) and kind == _TYPE:
                return Place(off, packed, unpacked)
    return None


def find_position(annotations: Mapping[str, str]) -> tuple[Place, str | None] | None:
    """Where a layer's annotations say that its TOC is, and the digest of those (compressed) bytes.

    None where they do not speak of one; FormatError where they are malformed.
    """
    for dialect in Dialect:
        text = annotations.get(f"{dialect.value}.manifest-position")
        if text is not None:
            return _parse_position(text), annotations.get(f"{dialect.value}.manifest-checksum")
    return None


def position_annotations(dialect: Dialect, toc: Place, toc_digest: str) -> dict[str, str]:
    """What find_position() reads; `toc_digest` is that of the compressed bytes."""
    position = f"{toc.off}:{toc.size}:{toc.unpacked_size}:{_TYPE}"
    return {
        f"{dialect.value}.manifest-position": position,
        f"{dialect.value}.manifest-checksum": toc_digest,
    }


def tar_split_annotations(tar_split: Place) -> dict[str, str]:
    """Where podman finds what it makes the original tar of."""
    position = f"{tar_split.off}:{tar_split.size}:{tar_split.unpacked_size}"
    return {f"{Dialect.PODMAN.value}.tarsplit-position": position}


def _parse_position(text: str) -> Place:
    found = _POSITION.fullmatch(text)
    if not found or int(found[4]) != _TYPE:
        raise FormatError(f"{text[:80]!r} is no position of a TOC of a known type")
    return Place(int(found[1]), int(found[2]), int(found[3]))
