"""What stands once a layer's entries have been put on disk one after the other, as tar does it. Pure.

Of several entries of one name the last one stands. A file that was replaced lives on under its hard links: the first of
them becomes the file, the others are links to that one. What stands has each name once, so that it may be
written in any order, unless `trouble` says why not.
"""

from collections.abc import Iterator
from copy import copy

from crfs.convert.entries import TarEntry, clean_name
from crfs.formats.whiteout import OPAQUE_NAME, WHITEOUT_PREFIX


def link_target(entry: TarEntry) -> str | None:
    """What a hard link is one to; None for all else."""
    return clean_name(entry.info.linkname) if entry.info.islnk() else None


def parents(name: str) -> list[str]:
    """The directories above, the root (the empty name) first."""
    parts = name.split("/")
    return ["", *("/".join(parts[:depth]) for depth in range(1, len(parts)))] if name else []


class Standing:
    """Is told of all entries with add(), in their order; after finish() it says which stand, and as what.

    Entries go by the numbers that they are added with, in ascending order. A name that leads through a symbolic
    link of the layer is taken as it is, and is a `trouble`.
    """

    def __init__(self) -> None:
        # what stands under each name: the number of the entry that put it there
        self.names: dict[str, int] = {}
        # what hard links are links to
        self.targets: dict[int, str] = {}
        # why what stands can't be written in another order than the layer's
        self.trouble: str | None = None
        self._directories: set[str] = set()
        self._symlinks: set[str] = set()
        # of each directory, also of those without an entry: what is in it
        self._children: dict[str, set[str]] = {}
        # of the links whose targets were there before them: the entries that they are names of
        self._bound: dict[int, int] = {}
        # entries with links: their own names
        self._linked: dict[int, str] = {}
        self._marks: dict[str, int] = {}
        self._renamed: dict[int, str] = {}

    def add(self, number: int, entry: TarEntry) -> None:
        """The next entry."""
        name, target = entry.name, link_target(entry)
        if name.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            self._marks[name] = number
            return
        if target is not None:
            self.targets[number] = target
            self._bind(number, target)
        self._make_parents(name)
        if entry.info.isdir():
            self._make_directory(name)
        else:
            if name in self._directories or self._children.get(name):
                self.trouble = f"{name!r} is first a directory and then something else"
            self._remove(name)
            if entry.info.issym():
                self._symlinks.add(name)
        self.names[name] = number

    def _bind(self, number: int, target: str) -> None:
        """Tie a link to what stands under `target` now, if that is a file of the layer."""
        found = self.names.get(target)
        if found is None or target in self._directories:
            return
        if found not in self.targets:
            self._linked[found] = target
            self._bound[number] = found
        elif found in self._bound:
            self._bound[number] = self._bound[found]

    def _make_parents(self, name: str) -> None:
        known = self._children.get(name.rpartition("/")[0])
        if known is not None and name:
            # and with it all above
            known.add(name)
            return
        above = parents(name)
        for parent, below in zip(above, [*above[1:], name], strict=False):
            if parent in self._symlinks:
                self.trouble = f"{name!r} leads through the symbolic link {parent!r}"
            elif parent in self.names and parent not in self._directories:
                self._replace(parent)
            self._children.setdefault(parent, set()).add(below)

    def _make_directory(self, name: str) -> None:
        if name in self.names and name not in self._directories:
            self._replace(name)
        self._directories.add(name)

    def _replace(self, name: str) -> None:
        """A directory takes the place of something else, and hides what that hid of the layers below."""
        self.trouble = f"{name!r} is first something else and then a directory"
        self._remove(name)

    def _remove(self, name: str) -> None:
        """What stands under a name, with all that is below it."""
        going = [name]
        while going:
            gone = going.pop()
            self.names.pop(gone, None)
            self._directories.discard(gone)
            self._symlinks.discard(gone)
            going.extend(self._children.pop(gone, ()))

    def finish(self) -> None:
        """No more entries come."""
        by_object: dict[int, list[tuple[int, str]]] = {}
        for name, number in self.names.items():
            if number in self.targets:
                found = self._find_object(number)
                if found is None:
                    self.trouble = (
                        f"{name!r} is a hard link to {self.targets[number]!r}, which the layer lacks"
                    )
                else:
                    by_object.setdefault(found, []).append((number, name))
        for found, links in by_object.items():
            self._name_links(found, sorted(links))
        self._check_marks()
        self.names.update(self._marks)

    def _find_object(self, number: int) -> int | None:
        """The entry that a link is a name of; one that came before its target gets what stands there now."""
        seen: set[int] = set()
        while number in self.targets:
            if number in self._bound:
                return self._bound[number]
            target = self.targets[number]
            found = self.names.get(target)
            if found is None or found in seen or target in self._directories:
                return None
            seen.add(found)
            number = found
            if number not in self.targets:
                self._linked[number] = target
        return number

    def _name_links(self, found: int, links: list[tuple[int, str]]) -> None:
        """Tell links what they are links to: the entry `found`, or where that doesn't stand, the first of them."""
        owner = self._linked[found]
        if self.names.get(owner) != found:
            _, owner = links.pop(0)
            self.names[owner] = found
            self._renamed[found] = owner
        for number, _ in links:
            self.targets[number] = owner

    def _check_marks(self) -> None:
        """A mark hides what the layers below have, but not directories that were implied before it."""
        marked: set[str] = set()
        for mark in self._marks:
            head, _, base = mark.rpartition("/")
            if base == OPAQUE_NAME:
                marked.update(self._children.get(head, ()))
            else:
                marked.add(f"{head}/{base.removeprefix(WHITEOUT_PREFIX)}".lstrip("/"))
            if any(above in self.names and above not in self._directories for above in parents(mark)):
                self.trouble = f"{mark!r} is below what is no directory"
        if not marked:
            return
        for name in self._implied():
            if name in marked or not marked.isdisjoint(parents(name)):
                self.trouble = f"{name!r} is hidden in the layers below, and has no entry of its own"

    def _implied(self) -> Iterator[str]:
        return (name for name in self._children if name and name not in self._directories)

    def written(self, number: int, entry: TarEntry) -> TarEntry | None:
        """The entry of that number as it is to be written; None if it doesn't stand."""
        name = self._renamed.get(number, entry.name)
        if self.names.get(name) != number:
            return None
        target = self.targets.get(number)
        if number not in self._renamed and target == link_target(entry):
            return entry
        info = copy(entry.info)
        info.name = name
        if target is not None:
            info.linkname = target
        return TarEntry(info, entry.open_payload)
