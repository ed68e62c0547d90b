"""What an overlay's directories hold, in the kernel's own format: names, and with them what lookups would say.

llfuse can't tell of both at once, so that it isn't asked (crfs._native.answers.serve_directories). Any thread.
"""

import stat

from crfs._native import answers
from crfs._native.listing import Listing
from crfs.fuse.view import View
from crfs.overlay.attributes import Attributes
from crfs.overlay.lookup import Listed, Told
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
        # and what answers.changed_lower() said before that
        self._names: dict[int, tuple[list[Listed], int]] = {}

    def read(self, ino: int, fh: int, off: int, size: int, plus: bool) -> bytes:
        """What comes after the first `off` names. What comes and goes meanwhile is shown or not, but no other is."""
        for handle in answers.released_directories():
            self._names.pop(handle, None)
        with self._overlay.unchanged():
            is_new = off == 0 or fh not in self._names
            if is_new:
                changes = answers.changed_lower()
                self._names[fh] = list_names(self._overlay, ino), changes
            (names, changes), listing = self._names[fh], Listing(size, plus)
            for at in range(off, len(names)):
                if not listing.has_room(names[at][0]):
                    break
                told = self._find(ino, names[at], changes if is_new else None) if plus and at > 1 else None
                self._put(listing, names[at], at + 1, told)
        return listing.taken_bytes()

    def _find(self, ino: int, listed: Listed, changes: int | None) -> Told | None:
        """What the kernel is told with a name. `changes`: see Overlay.lookup_listed(), where that is to be asked."""
        name, _, _, part = listed
        if part is None and answers.is_new(ino, name):
            # the kernel knows it, and we need not
            return None
        try:
            if changes is None:
                return self._overlay.lookup(ino, name)
            return self._overlay.lookup_listed(ino, name, part, changes)
        except OSError:
            # who looks it up is told
            return None

    def _put(self, listing: Listing, listed: Listed, off: int, told: Told | None) -> None:
        name, number, mode, _ = listed
        if told is None:
            listing.add(name, off, number, mode)
        else:
            self._add(listing, name, off, *told)

    def _add(self, listing: Listing, name: bytes, off: int, number: int, shown: Attributes) -> None:
        view = self._view
        listing.add_known(
            name,
            off,
            number,
            view.timeout_seconds,
            self._directory_seconds if stat.S_ISDIR(shown.mode) else view.timeout_seconds,
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
