"""Inode numbers: what each object of the stack is called, whoever asks and when. Pure, but for what it remembers.

A number says in which space an object's own number is meant: a lower tree (and, below it, another device), or the
upper directory. A file that was copied up keeps the number that it had; the upper directory says so (`Origin`), which
counts only over the lower trees that gave the number.
"""

import itertools
import struct
import zlib
from collections.abc import Sequence

from crfs.overlay.lower import Lower
from crfs.overlay.node import ROOT_INODE, Part

# bits 0 to 47: an object's own number; 48 to 59: a space; 60: of the upper directory; 61: none of these
_SPACE = 1 << 48
_UPPER = 1 << 60
_ODD = 1 << 61
_SPACES = 1 << 12
_LOW = (1 << 40) - 1
_ORIGIN = struct.Struct("<QI")


class Numbers:
    """Numbers of the objects over one stack of lower trees, topmost first."""

    def __init__(self, lowers: Sequence[Lower]) -> None:
        self._places = {id(lower): place for place, lower in enumerate(lowers)}
        self._lowers = list(lowers)
        self._stack = zlib.crc32(b"\0".join(lower.identity() for lower in lowers))
        # trees on other devices below a lower one
        self._devices: dict[tuple[int, int], int] = {}
        self._odd: dict[tuple[int, int], int] = {}
        self._count = itertools.count(_ODD)

    def place(self, lower: Lower) -> int:
        """Where in the stack a lower tree is, the topmost at 0."""
        return self._places[id(lower)]

    def plain(self, lower: Lower) -> tuple[int, bytes] | None:
        """What is added to numbers in a lower tree, and follows them in marks; None where it is not as simple."""
        place = self.place(lower)
        return (place * _SPACE, self.origin(0)[8:]) if place < _SPACES else None

    def lower(self, part: Part) -> int:
        """The number of a lower object."""
        lower, found = part
        place, device, own = self.place(lower), found.key >> 64, _folded(found.key & (_SPACE << 16) - 1)
        space = place if not device else self._device_space(place, device)
        if own is None or space >= _SPACES:
            return self._odd.setdefault((place, found.key), next(self._count))
        return space * _SPACE + own

    def _device_space(self, place: int, device: int) -> int:
        return self._devices.setdefault((place, device), len(self._lowers) + len(self._devices))

    def upper(self, ino: int) -> int:
        """The number of what is new in the upper directory."""
        own = _folded(ino)
        return self._odd.setdefault((-1, ino), next(self._count)) if own is None else _UPPER + own

    def spare(self) -> int:
        """A number that nothing else has."""
        return next(self._count)

    def origin(self, number: int) -> bytes:
        """What an upper object is marked with, so that it keeps its number."""
        return _ORIGIN.pack(number, self._stack)

    def origin_number(self, mark: bytes) -> int | None:
        """The number that an upper object keeps; None where it is of another stack."""
        if len(mark) != _ORIGIN.size:
            return None
        number, stack = _ORIGIN.unpack(mark)
        return number if stack == self._stack and number != ROOT_INODE else None

    def lower_of(self, number: int) -> tuple[Lower, int] | None:
        """The lower tree, and the key in it, that a number was made of."""
        place, own = divmod(number, _SPACE)
        return (self._lowers[place], _unfolded(own)) if place < len(self._lowers) else None


class PlainNumbers(Numbers):
    """Numbers that objects have on disk, cut to so many bits, where nothing else is called so already.

    Each stands for one of the whole space, which is what upper objects are marked with.
    """

    def __init__(self, lowers: Sequence[Lower], bits: int) -> None:
        super().__init__(lowers)
        self._mask = (1 << bits) - 1
        self._others = itertools.count(1 << bits - 1)
        self._plain: dict[int, int] = {}
        self._whole: dict[int, int] = {}

    def plain(self, lower: Lower) -> tuple[int, bytes] | None:
        return None

    def lower(self, part: Part) -> int:
        return self._cut(super().lower(part))

    def upper(self, ino: int) -> int:
        return self._cut(super().upper(ino))

    def spare(self) -> int:
        return self._cut(super().spare())

    def origin(self, number: int) -> bytes:
        return super().origin(self._whole.get(number, number))

    def origin_number(self, mark: bytes) -> int | None:
        number = super().origin_number(mark)
        return None if number is None else self._cut(number)

    def lower_of(self, number: int) -> tuple[Lower, int] | None:
        return super().lower_of(self._whole.get(number, number))

    def _cut(self, whole: int) -> int:
        plain = self._plain.get(whole)
        if plain is None:
            plain = _unfolded(whole & _SPACE - 1) & self._mask
            while plain <= ROOT_INODE or plain in self._whole:
                plain = next(self._others)
            self._plain[whole], self._whole[plain] = plain, whole
        return plain


def _folded(ino: int) -> int | None:
    """A number of 64 bits in 48, where that is possible: overlayfs, if it is a lower one, uses the uppermost bits."""
    high, low = ino >> 56, ino & _LOW
    return high << 40 | low if ino == high << 56 | low else None


def _unfolded(own: int) -> int:
    return own >> 40 << 56 | own & _LOW
