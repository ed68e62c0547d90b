"""What an overlay's directories hold, in the kernel's own format: names, and with them what lookups would say.

llfuse can't tell of both at once, so that it isn't asked (crfs._native.answers.serve_directories). Any thread.
"""

import stat

from crfs._native import answers
from crfs._native.listing import Listing
from crfs.fuse.view import View
from crfs.overlay.attributes import Attributes
from crfs.overlay.lookup import Listed
from crfs.overlay.node import Node, Part
from crfs.overlay.overlay import Overlay

_DIR = stat.S_IFDIR


def list_names(overlay: Overlay, ino: int) -> list[Listed]:
    """As they are now, the directory itself and its parent first."""
    listed = overlay.list(ino)
    return [(b".", ino, _DIR, None), (b"..", overlay.parent(ino), _DIR, None), *listed]


class Directories:
    """Those that are open. The kernel may believe what it is told of directories for `directory_seconds`."""

    def __init__(self, overlay: Overlay, view: View, directory_seconds: float) -> None:
        self._overlay = overlay
        self._view = view
        self._directory_seconds = directory_seconds
        self._names: dict[int, list[Listed]] = {}

    def read(self, ino: int, fh: int, off: int, size: int, plus: bool) -> bytes:
        """What comes after the first `off` names. What comes and goes meanwhile is shown or not, but no other is."""
        for handle in answers.released_directories():
            self._names.pop(handle, None)
        with self._overlay.unchanged():
            is_new = off == 0 or fh not in self._names
            if is_new:
                self._names[fh] = list_names(self._overlay, ino)
            names, listing = self._names[fh], Listing(size, plus)
            for at in range(off, len(names)):
                if not listing.has_room(names[at][0]):
                    break
                self._put(listing, ino, names[at], at + 1, plus and at > 1, is_new)
        return listing.taken_bytes()

    def _put(self, listing: Listing, ino: int, listed: Listed, off: int, plus: bool, is_new: bool) -> None:
        name, number, mode, part = listed
        found = self._find(ino, name, part if is_new else None) if plus else None
        if found is None:
            listing.add(name, off, number, mode)
        else:
            self._add(listing, name, off, *found)

    def _find(self, ino: int, name: bytes, part: Part | None) -> tuple[Node, Attributes] | None:
        if part is None and answers.is_new(ino, name):
            # the kernel knows it, and we need not
            return None
        try:
            return self._overlay.lookup_listed(ino, name, part)
        except OSError:
            # who looks it up is told
            return None

    def _add(self, listing: Listing, name: bytes, off: int, node: Node, shown: Attributes) -> None:
        view = self._view
        listing.add_known(
            name,
            off,
            node.ino,
            view.timeout_seconds,
            self._directory_seconds if node.is_dir else view.timeout_seconds,
            shown.mode,
            view.nlink(shown),
            view.uids.to_shown(shown.uid),
            view.gids.to_shown(shown.gid),
            shown.rdev,
            shown.size,
            shown.blocks,
            shown.atime_ns,
            shown.mtime_ns,
            shown.ctime_ns,
        )
