"""What an overlay's directories hold, in the kernel's own format: names, and with them what lookups would say.

llfuse can't tell of both at once, so that it isn't asked (crfs._native.answers.serve_directories). Any thread.
"""

import stat

from msgspec import Struct

from crfs._native import answers
from crfs._native.listing import Listing
from crfs.fuse.view import View
from crfs.overlay.alone import Alone
from crfs.overlay.attributes import Attributes
from crfs.overlay.lookup import Told
from crfs.overlay.node import Listed
from crfs.overlay.overlay import Overlay

_DIR = stat.S_IFDIR


def _own_names(overlay: Overlay, ino: int) -> list[Listed]:
    return [(b".", ino, _DIR, None), (b"..", overlay.parent(ino), _DIR, None)]


def list_names(overlay: Overlay, ino: int) -> list[Listed]:
    """As they are now, the directory itself and its parent first."""
    return [*_own_names(overlay, ino), *overlay.list(ino)]


class _Opened(Struct, frozen=True):
    """The names of a directory: `names` come before those in `alone`, which are one lower directory's.

    `changes`: what answers.changed_lower() said before they were read.
    """

    names: list[Listed]
    alone: Alone | None
    changes: int

    def __len__(self) -> int:
        return len(self.names) + (len(self.alone.names) if self.alone is not None else 0)


class Directories:
    """Those that are open. The kernel may believe what it is told of directories for `directory_seconds`."""

    def __init__(self, overlay: Overlay, view: View, directory_seconds: float) -> None:
        self._overlay = overlay
        self._view = view
        self._directory_seconds = directory_seconds
        self._opened: dict[int, _Opened] = {}

    def read(self, ino: int, fh: int, off: int, size: int, plus: bool) -> bytes:
        """What comes after the first `off` names. What comes and goes meanwhile is shown or not, but no other is."""
        for handle in answers.released_directories():
            self._opened.pop(handle, None)
        with self._overlay.unchanged():
            is_new = off == 0 or fh not in self._opened
            if is_new:
                self._opened[fh] = self._open(ino)
            opened, listing = self._opened[fh], Listing(size, plus)
            if self._fill(ino, opened, listing, off, is_new=is_new):
                answers.know_end(fh, len(opened))
        return listing.taken_bytes()

    def _open(self, ino: int) -> _Opened:
        changes = answers.changed_lower()
        alone = self._overlay.read_alone(ino)
        names = list_names(self._overlay, ino) if alone is None else _own_names(self._overlay, ino)
        return _Opened(names, alone, changes)

    def _fill(self, ino: int, opened: _Opened, listing: Listing, off: int, *, is_new: bool) -> bool:
        """Tell of all that there is room for; whether that was all. `is_new`: the names have just been read."""
        tells = listing.plus and is_new
        while off < len(opened):
            if tells and opened.alone is not None and off >= len(opened.names):
                off = self._put_files(ino, opened, opened.alone, listing, off)
                if off == len(opened):
                    break
            listed = self._listed(ino, opened, off)
            if listed is not None:
                if not listing.has_room(listed[0]):
                    return False
                told = self._find(ino, listed, opened, is_new) if listing.plus and off > 1 else None
                self._put(listing, listed, off + 1, told)
            off += 1
        return True

    def _put_files(self, ino: int, opened: _Opened, alone: Alone, listing: Listing, off: int) -> int:
        """Tell of files up to what has to be looked up, or has no room; after how many names that is."""
        before = len(opened.names)
        return before + self._overlay.put_files(ino, alone, listing, off - before, before, opened.changes)

    def _listed(self, ino: int, opened: _Opened, off: int) -> Listed | None:
        """None where a name is not shown."""
        if opened.alone is None or off < len(opened.names):
            return opened.names[off]
        return self._overlay.listed_alone(ino, opened.alone, off - len(opened.names))

    def _find(self, ino: int, listed: Listed, opened: _Opened, is_new: bool) -> Told | None:
        """What the kernel is told with a name."""
        name, _, _, part = listed
        if part is None and answers.is_new(ino, name):
            # the kernel knows it, and we need not
            return None
        try:
            if not is_new:
                return self._overlay.lookup(ino, name)
            if opened.alone is not None:
                return self._overlay.lookup_alone(ino, listed, opened.changes)
            return self._overlay.lookup_listed(ino, name, part, opened.changes)
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
