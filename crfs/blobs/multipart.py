"""Several ranges in one answer: multipart/byteranges (RFC 9110, section 14.6), taken apart as it comes. Pure."""

import re
from collections.abc import Iterator

from crfs.errors import FormatError

# boundary and headers of a part
_HEAD_MAX = 4096
_BOUNDARY = re.compile(r"multipart/byteranges;.*\bboundary=(\"?)([^\";,]{1,70})\1", re.IGNORECASE)
_RANGE = re.compile(rb"^content-range:\s*bytes\s+([0-9]{1,18})-([0-9]{1,18})/", re.IGNORECASE | re.MULTILINE)


def parse_boundary(content_type: str | None) -> bytes | None:
    """What stands between the parts; None where the answer has no parts."""
    match = _BOUNDARY.match(content_type or "")
    return match[2].encode() if match else None


class Parts:
    """feed() the body; what it yields is (offset, bytes) of the resource."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._head = b""
        # of the part that is under way
        self._off = self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """FormatError where a part does not begin as one should."""
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                yield self._off, piece
                self._off += len(piece)
                self._left -= len(piece)
            else:
                data = self._begin(data)

    def _begin(self, data: bytes) -> bytes:
        """What comes behind the head of the next part, once that is whole."""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if self._head.lstrip(b"\r\n").startswith(self._delimiter + b"--"):
            # the end; what follows is of no meaning
            self._head = self._delimiter + b"--"
            return b""
        if not end:
            if len(self._head) > _HEAD_MAX:
                raise FormatError("a part of an answer begins with too long a head")
            return b""
        match = _RANGE.search(head)
        if (
            match is None
            or not head.lstrip(b"\r\n").startswith(self._delimiter)
            or int(match[2]) < int(match[1])
        ):
            raise FormatError("a part of an answer does not say which bytes it has")
        self._head = b""
        self._off, self._left = int(match[1]), int(match[2]) + 1 - int(match[1])
        return rest
