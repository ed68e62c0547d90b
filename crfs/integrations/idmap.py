"""User and group ids, as fuse-overlayfs maps them between disk and mount. Only load_overflow_ids() does I/O."""

from pathlib import Path

from msgspec import Struct

_OVERFLOW = 65534
_SYSCTL = Path("/proc/sys/kernel")


class IdRange(Struct, frozen=True):
    """The ids [host, host + length) on disk show as [to, to + length)."""

    host: int
    to: int
    length: int


class IdMap(Struct, frozen=True):
    """User or group ids, on disk and as shown.

    Without ranges each id shows as itself. With ranges, one in none of them becomes `overflow`, both ways, and
    of two that overlap the last counts. `squash` is what every id shows as; it does not change what is written.
    """

    ranges: tuple[IdRange, ...] = ()
    squash: int | None = None
    overflow: int = _OVERFLOW

    @property
    def is_identity(self) -> bool:
        """Whether nothing is mapped at all."""
        return not self.ranges and self.squash is None

    def to_shown(self, host: int) -> int:
        """What an id on disk shows as."""
        if self.squash is not None:
            return self.squash
        for part in reversed(self.ranges):
            if part.host <= host < part.host + part.length:
                return part.to + host - part.host
        return self.overflow if self.ranges else host

    def to_disk(self, shown: int) -> int:
        """What is written for an id of a caller, or one that a file is given to."""
        for part in reversed(self.ranges):
            if part.to <= shown < part.to + part.length:
                return part.host + shown - part.to
        return self.overflow if self.ranges else shown


def load_overflow_ids() -> tuple[int, int]:
    """The kernel's user and group id for those that have no name here (proc_sys_kernel(5))."""
    return _load("overflowuid"), _load("overflowgid")


def _load(name: str) -> int:
    try:
        return int((_SYSCTL / name).read_text())
    except (OSError, ValueError):
        return _OVERFLOW
