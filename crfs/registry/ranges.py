"""Two headers that look alike: Range (RFC 9110) and Content-Range as OCI distribution writes it. Pure."""

import re

from msgspec import Struct

from crfs.registry.refusal import Refusal

_BYTES = re.compile(r"bytes=\s*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))\s*", re.IGNORECASE)
_CHUNK = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


class Span(Struct, frozen=True):
    """`size` bytes from byte `start` on."""

    start: int
    size: int

    @property
    def last(self) -> int:
        """The last byte's position, as headers name it."""
        return self.start + self.size - 1


def parse_range(header: str | None, size: int) -> Span | None:
    """What to send of `size` bytes; None means all, with status 200.

    A header that is malformed, in another unit, or asks for several ranges is ignored, as RFC 9110 allows.
    One that begins after the end is refused with 416.
    """
    match = _BYTES.fullmatch(header) if header is not None else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(size - int(suffix), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise Refusal(
            416, "SIZE_INVALID", f"{header!r} of {size} bytes", {"Content-Range": f"bytes */{size}"}
        )
    return Span(start, end - start)


def parse_chunk(header: str | None) -> Span | None:
    """The place of a chunk, None where the request doesn't say; BLOB_UPLOAD_INVALID on nonsense."""
    if header is None:
        return None
    match = _CHUNK.fullmatch(header)
    if match is None or int(match[2]) < int(match[1]):
        raise Refusal(400, "BLOB_UPLOAD_INVALID", f"invalid Content-Range {header!r}")
    return Span(int(match[1]), int(match[2]) - int(match[1]) + 1)
