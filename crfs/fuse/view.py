"""How an overlay is shown: ids, link counts, extended attributes, and for how long the kernel may believe it."""

import stat
from typing import Protocol

from msgspec import Struct

from crfs.fuse.reply import FOREVER_SECONDS
from crfs.overlay.attributes import Attributes


class Ids(Protocol):
    """User or group ids, on disk and as shown."""

    def to_shown(self, host: int, /) -> int: ...

    def to_disk(self, shown: int, /) -> int: ...


class _Same:
    def to_shown(self, host: int, /) -> int:
        return host

    def to_disk(self, shown: int, /) -> int:
        return shown


SAME = _Same()


class View(Struct, frozen=True):
    """`static_nlink`: every directory has one link. `xattrs` False: there are none."""

    uids: Ids = SAME
    gids: Ids = SAME
    static_nlink: bool = False
    xattrs: bool = True
    timeout_seconds: float = FOREVER_SECONDS

    def nlink(self, shown: Attributes) -> int:
        """How many links are shown."""
        return 1 if self.static_nlink and stat.S_ISDIR(shown.mode) else shown.nlink

    @property
    def is_plain(self) -> bool:
        """Whether everything is shown as it is on disk."""
        return self.uids is SAME and self.gids is SAME and self.xattrs and not self.static_nlink


PLAIN_VIEW = View()
