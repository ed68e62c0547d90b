"""What is fetched beside the chunk that a reader waits for. Policy only, no I/O; any thread."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from crfs._native.index import Tree

T = TypeVar("T")

# A program that reads one small file of a directory soon reads others. The first miss in a directory takes
# along what of it lies within REACH on either side, each further one within REACH_AGAIN; if the directory's
# files lie together in no more than WHOLE_DIRECTORY, the first takes all of them.
REACH = 96 << 10
REACH_AGAIN = 512 << 10
WHOLE_DIRECTORY = 512 << 10
# what lies this close is taken along whatever directory it is of: it costs less than one more request
NEARBY = 48 << 10
SMALL_MEMBER = 128 << 10
# for a file that is fetched ahead, what of its directory lies this close
BESIDE = 48 << 10
# a file of no more chunks than these is fetched whole, if it is not larger (compressed) than this
WHOLE_CHUNKS = 3
WHOLE_MAX = 4 << 20
# chunks that are fetched ahead of a reader that goes through a file from chunk to chunk
AHEAD_MAX = 4
# how many in a row say that he does: of chunks that had to be fetched, that were fetched ahead, and of what was on the
# disk or is an ELF object
ROW_MISSED, ROW_ARRIVED, ROW_HERE = 1, 2, 3
_REMEMBERED = 1024


class Along(Struct, frozen=True):
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
        # directories with a miss
        self._missed: OrderedDict[int, bool] = OrderedDict()

    def along(self, chunk: int) -> Along:
        """What to take along in the request for `chunk`, which is not here."""
        place = self._tree.chunk(chunk)
        file = self._tree.file_chunks(chunk)
        if 1 < len(file) <= WHOLE_CHUNKS:
            return self._whole_file(chunk, file)
        if place.blob_end - place.blob_off > SMALL_MEMBER:
            return NOTHING
        return self._whole_directory(chunk) or self._reachable(chunk)

    def beside(self, chunk: int) -> Along:
        """What to take along in the request for `chunk`, which is not here, and which nobody has asked for yet."""
        return Along(*self._tree.around(chunk, BESIDE, 0, SMALL_MEMBER))

    def _whole_directory(self, chunk: int) -> Along | None:
        along = self._around(chunk, WHOLE_DIRECTORY)
        first, last = (*along.before[-1:], chunk)[0], (*along.after[-1:], chunk)[0]
        span = self._tree.chunk(last).blob_end - self._tree.chunk(first).blob_off
        return along if span <= WHOLE_DIRECTORY else None

    def _reachable(self, chunk: int) -> Along:
        directory = self._tree.directory(chunk)
        with self._lock:
            missed = self._missed.get(directory, False)
            _remember(self._missed, directory, True)
        return self._around(chunk, REACH_AGAIN if missed else REACH)

    def _around(self, chunk: int, reach: int) -> Along:
        return Along(*self._tree.around(chunk, reach, NEARBY, SMALL_MEMBER))

    def _whole_file(self, chunk: int, file: range) -> Along:
        places = [self._tree.chunk(part) for part in file]
        in_order = all(
            one.layer == two.layer and one.blob_off <= two.blob_off for one, two in itertools.pairwise(places)
        )
        if not in_order or places[-1].blob_end - places[0].blob_off > WHOLE_MAX:
            return NOTHING
        return Along(range(chunk - 1, file[0] - 1, -1), range(chunk + 1, file[-1] + 1))

    def ahead(self, inode: int, chunk: int, least: int = ROW_MISSED) -> Sequence[int]:
        """Chunks of the same file to start on now: none until `least` chunks followed one on the other.

        What is here already, somebody has read before, and most likely no more of it. Objects are touched here and
        there.
        """
        with self._lock:
            last, row = self._streams.get(inode, (-1, 0))
            if chunk == last:
                return ()
            row = row + 1 if chunk == last + 1 and last >= 0 else 0
            _remember(self._streams, inode, (chunk, row))
        if row < least:
            return ()
        return range(
            chunk + 1, min(chunk + 1 + min(2 * row, AHEAD_MAX), self._tree.file_chunks(chunk)[-1] + 1)
        )


def _remember(table: OrderedDict[int, T], key: int, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
