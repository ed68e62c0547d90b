from collections.abc import Mapping

from crfs._native.listing import Listing
from crfs._native.status import Status

class LowerNames:
    def __init__(
        self, place: int, fd: int, path: bytes, device: int, space: int, mark_end: bytes
    ) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, at: int, /) -> tuple[bytes, Status]: ...
    def put_files(
        self,
        listing: Listing,
        at: int,
        before: int,
        parent: int,
        known: Mapping[bytes, object],
        taken: Mapping[int, object],
        changes: int,
    ) -> int: ...
