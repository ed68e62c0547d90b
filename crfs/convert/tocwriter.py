"""The TOC of a layer under way. Pure; the thread that writes the layer.

A tar may have several entries of one name. Readers of a TOC look files up by their names, and some of them take the
chunks of one file for those of another then. So each name is told of once, as what stands in the end (`Standing`), and
the tar keeps its entries. Where that can't be, as with a file that becomes a directory, the TOC has all of them, too.
"""

import tarfile
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from crfs.convert.entries import TarEntry
from crfs.convert.headers import OwnerNames, WrittenEntry
from crfs.convert.standing import Standing

_CHUNK = "chunk"
# what makes a difference to what stands
_TYPES = {"dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}
_decoder = msgspec.json.Decoder(WrittenEntry)


class TocWriter:
    """The TOC's JSON as far as it is known: an entry is encoded once all of its chunks are placed."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Sequence[WrittenEntry], list[int]]] = deque()
        self._done: list[bytes] = []
        # not the names themselves, of which there may be half a million
        self._hashes: set[int] = set()
        self._repeats = False

    def add(self, name: str, group: Sequence[WrittenEntry], unplaced: list[int]) -> None:
        """An entry and its chunks; the one number in `unplaced` says how many wait for their place.

        `name` is the cleaned one (`TarEntry.name`).
        """
        key = hash(name)
        self._repeats = self._repeats or key in self._hashes
        self._hashes.add(key)
        self._waiting.append((group, unplaced))
        while self._waiting and self._waiting[0][1][0] == 0:
            self._done += map(msgspec.json.encode, self._waiting.popleft()[0])

    def finish(self) -> bytes:
        """All of it."""
        for group, _ in self._waiting:
            self._done += map(msgspec.json.encode, group)
        self._hashes.clear()
        done = _standing(self._done) if self._repeats else self._done
        return b'{"version":1,"entries":[' + b",".join(done) + b"]}"


def _standing(encoded: list[bytes]) -> list[bytes]:
    """The entries with each name once; as they are where that can't be."""
    standing = Standing()
    for number, entry in _numbered(encoded):
        if entry.type != _CHUNK:
            standing.add(number, _as_tar(entry))
    standing.finish()
    if standing.trouble is not None:
        return encoded
    return [msgspec.json.encode(entry) for entry in _told_once(encoded, standing)]


def _told_once(encoded: list[bytes], standing: Standing) -> Iterator[WrittenEntry]:
    owners, name, stands = _Owners(), "", False
    for number, entry in _numbered(encoded):
        if entry.type == _CHUNK:
            entry.name = name
        else:
            written = standing.written(number, _as_tar(entry))
            stands = written is not None
            owners.pass_on(entry, stands)
            if written is not None:
                entry.name, entry.link_name = written.info.name, written.info.linkname
            name = entry.name
        if stands:
            yield entry


def _numbered(encoded: list[bytes]) -> Iterator[tuple[int, WrittenEntry]]:
    """The entries, decoded one at a time; a chunk has the number of its file."""
    number = 0
    for one in encoded:
        entry = _decoder.decode(one)
        number += entry.type != _CHUNK
        yield number, entry


def _as_tar(entry: WrittenEntry) -> TarEntry:
    """What has its name, and leads where it does."""
    info = tarfile.TarInfo(entry.name)
    info.type, info.linkname = _TYPES.get(entry.type, tarfile.REGTYPE), entry.link_name
    return TarEntry(info)


class _Owners:
    """The names of owners, which entries that are left out may have told of."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}
        self._told = OwnerNames()

    def pass_on(self, entry: WrittenEntry, stands: bool) -> None:
        """Have the entry tell of its owners, if it is to stand, what those who read the names before it know."""
        user = self._users[entry.uid] = entry.user_name or self._users.get(entry.uid, "")
        group = self._groups[entry.gid] = entry.group_name or self._groups.get(entry.gid, "")
        if stands:
            entry.user_name = self._told.news("user", entry.uid, user)
            entry.group_name = self._told.news("group", entry.gid, group)
