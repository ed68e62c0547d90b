"""Digests as the OCI image specification writes them. Pure; any thread.

Interfaces carry a digest as plain `str` ("sha256:..."); this module says which of those are well-formed and
whether bytes match them.
"""

import hashlib
import re
from typing import Protocol

from msgspec import Struct

from crfs.errors import DigestMismatch, FormatError

HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What hashlib's objects do, as far as a digest needs it."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Digest(Struct, frozen=True):
    """A well-formed digest: `algorithm` is sha256 or sha512, `hex` is lower-case and of the right length."""

    algorithm: str
    hex: str

    def hasher(self) -> Hasher:
        """A fresh hash of this digest's algorithm, for bytes that come in pieces."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def parse_digest(text: str) -> Digest:
    """`ALGORITHM:HEX` as a Digest (OCI image-spec, descriptor.md#digests).

    FormatError for an unknown algorithm, upper-case or missing hex digits, or a wrong length. A digest that
    passed is also safe as a file name and in a URL's path.
    """
    algorithm, colon, digits = text.partition(":")
    length = HEX_LENGTHS.get(algorithm)
    if not colon or length is None:
        raise FormatError(f"{text!r} is not a digest: it has to start with sha256: or sha512:")
    if len(digits) != length or not _HEX.fullmatch(digits):
        raise FormatError(f"{text!r} is not a digest: {algorithm} has {length} lower-case hex digits")
    return Digest(algorithm, digits)


def sha256_digest(data: bytes | bytearray | memoryview) -> str:
    """The sha256 digest of `data`, as text."""
    return "sha256:" + hashlib.sha256(data, usedforsecurity=False).hexdigest()


def check_hash(hasher: Hasher, digest: str, what: str) -> None:
    """DigestMismatch, naming `what`, unless all that `hasher` was fed is what `digest` names."""
    found = hasher.hexdigest()
    expected = parse_digest(digest)
    if found != expected.hex:
        raise DigestMismatch(f"{what} has the digest {expected.algorithm}:{found}, not {digest}")


def verify(data: bytes | bytearray | memoryview, digest: str, what: str) -> None:
    """DigestMismatch, naming `what`, unless `data` is what `digest` names; FormatError for no digest."""
    hasher = parse_digest(digest).hasher()
    hasher.update(data)
    check_hash(hasher, digest, what)
