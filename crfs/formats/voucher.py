"""What a manifest says of a layer's TOC, by which the TOC is believed. Pure; any thread."""

from collections.abc import Mapping

from msgspec import Struct

from crfs.formats.digest import verify
from crfs.formats.toc import TOC_DIGEST_ANNOTATION
from crfs.formats.zstdchunked import Place, find_position


class Voucher(Struct, frozen=True):
    """Digests of the TOC's JSON and of its compressed form, and where zstd:chunked has it; as far as is said."""

    json_digest: str | None = None
    packed_digest: str | None = None
    place: Place | None = None

    @property
    def binds(self) -> bool:
        """Whether a TOC can be checked by it."""
        return bool(self.json_digest or self.packed_digest)

    def check_packed(self, packed: bytes) -> None:
        """DigestMismatch unless the compressed TOC is the right one, as far as that is known."""
        if self.packed_digest:
            verify(packed, self.packed_digest, "the compressed TOC")

    def check_json(self, json: bytes) -> None:
        """DigestMismatch unless the TOC is the right one, as far as that is known."""
        if self.json_digest:
            verify(json, self.json_digest, "the TOC")


NOTHING = Voucher()


def read_voucher(annotations: Mapping[str, str]) -> Voucher:
    """What a layer's annotations say; FormatError where they are malformed."""
    place, packed_digest = find_position(annotations) or (None, None)
    return Voucher(annotations.get(TOC_DIGEST_ANNOTATION), packed_digest, place)
