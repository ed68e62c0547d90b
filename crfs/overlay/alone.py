"""What a directory holds that one lower directory, and no other, has a part in. The overlay's lock is the caller's.

Most directories of an image are such: nothing has to be merged, and most of what they hold is told of without Python.
"""

from msgspec import Struct

from crfs._native.listing import Listing
from crfs._native.lowernames import LowerNames
from crfs.overlay.lower import DirectoryLower
from crfs.overlay.node import Listed, Node, Part
from crfs.overlay.numbers import Numbers


class Alone(Struct, frozen=True):
    """`names`: without whiteouts, which hide nothing here. `taken`: the numbers that nodes have."""

    lower: DirectoryLower
    directory: bytes
    names: LowerNames
    numbers: Numbers
    taken: dict[int, Node]

    def put_files(self, node: Node, listing: Listing, at: int, before: int, changes: int) -> int:
        """Tell of files and leave them to others: see LowerNames.put_files()."""
        return self.names.put_files(listing, at, before, node.ino, node.children, self.taken, changes)

    def listed(self, node: Node, at: int) -> Listed | None:
        """What Lookup.list() would say of a name; None where it is a whiteout after all."""
        name, info = self.names[at]
        part = self.lower, self.lower.listed(self.directory, name, info)
        if part[1].whiteout:
            return None
        known = node.children.get(name)
        return name, self.numbers.lower(part) if known is None else known.ino, part[1].mode, part


def find_alone(part: Part, numbers: Numbers, taken: dict[int, Node]) -> Alone | None:
    """What a lower directory holds; None where that is not as simple. OSError where it can't be read."""
    lower, found = part
    plain = numbers.plain(lower)
    if plain is None or not isinstance(lower, DirectoryLower):
        return None
    names = lower.read_names(found.handle, numbers.place(lower), *plain)
    return None if names is None else Alone(lower, found.handle, names, numbers, taken)
