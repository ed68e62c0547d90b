"""What is fetched beside the chunk that a reader waits for. Policy only, no I/O; any thread."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from crfs._native.index import Tree

T = TypeVar("T")

# A program that reads one small file of a directory soon reads others. The first miss in a directory takes
# along what lies within REACH on either side; each further one reaches further, until REACH_MAX.
REACH = 96 << 10
REACH_STEP = 256 << 10
REACH_MAX = 384 << 10
SMALL_MEMBER = 128 << 10
# a file of no more chunks than these is fetched whole, if it is not larger (compressed) than this
WHOLE_CHUNKS = 3
WHOLE_MAX = 4 << 20
# chunks that are fetched ahead of a reader that goes through a file from chunk to chunk
AHEAD_MAX = 4
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Along:
    """Chunks that lie before and after another one in its blob, the nearest first, one for each member."""

    before: Sequence[int] = ()
    after: Sequence[int] = ()


NOTHING = Along()


class Prefetch:
    """Watches which chunks are read and missed, and says which others to fetch with them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        # inode -> (chunk read last, how many chunks in a row)
        self._streams: OrderedDict[int, tuple[int, int]] = OrderedDict()
        # directory -> misses so far
        self._misses: OrderedDict[int, int] = OrderedDict()

    def along(self, chunk: int) -> Along:
        """What to take along in the request for `chunk`, which is not here."""
        place = self._tree.chunk(chunk)
        file = self._tree.file_chunks(chunk)
        if 1 < len(file) <= WHOLE_CHUNKS:
            return self._whole_file(chunk, file)
        if place.blob_end - place.blob_off > SMALL_MEMBER:
            return NOTHING
        with self._lock:
            directory = self._tree.directory(chunk)
            misses = self._misses.get(directory, 0)
            _remember(self._misses, directory, misses + 1)
        reach = min(REACH + REACH_STEP * misses, REACH_MAX)
        return Along(*self._tree.around(chunk, reach, SMALL_MEMBER))

    def _whole_file(self, chunk: int, file: range) -> Along:
        places = [self._tree.chunk(part) for part in file]
        in_order = all(
            one.layer == two.layer and one.blob_off <= two.blob_off for one, two in itertools.pairwise(places)
        )
        if not in_order or places[-1].blob_end - places[0].blob_off > WHOLE_MAX:
            return NOTHING
        return Along(range(chunk - 1, file[0] - 1, -1), range(chunk + 1, file[-1] + 1))

    def ahead(self, inode: int, chunk: int) -> Sequence[int]:
        """Chunks of the same file to start on now: none until two chunks were read one after the other."""
        with self._lock:
            last, row = self._streams.get(inode, (-1, 0))
            if chunk == last:
                return ()
            row = row + 1 if chunk == last + 1 and last >= 0 else 0
            _remember(self._streams, inode, (chunk, row))
        if not row:
            return ()
        return range(
            chunk + 1, min(chunk + 1 + min(2 * row, AHEAD_MAX), self._tree.file_chunks(chunk)[-1] + 1)
        )


def _remember(table: OrderedDict[int, T], key: int, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
