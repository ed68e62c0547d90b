"""What is fetched beside the chunk that a reader waits for. Policy only, no I/O; the caller holds a lock."""

from collections import OrderedDict

from crfs._native.index import Tree

# blob bytes behind a small member that one request takes along: its neighbours are likely next
NEIGHBOUR_WINDOW = 96 << 10
SMALL_MEMBER = 256 << 10
# chunks that are fetched ahead of a reader that goes through a file from chunk to chunk
AHEAD_MAX = 4
_FILES_REMEMBERED = 256


class Prefetch:
    """Watches which chunks are read and says which others to fetch with them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        # inode -> (chunk read last, how many chunks in a row)
        self._streams: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def neighbours(self, chunk: int) -> list[int]:
        """Chunks to take along in the request for `chunk`, which is not here."""
        place = self._tree.chunk(chunk)
        if place.blob_end - place.blob_off > SMALL_MEMBER:
            return []
        return self._tree.following(chunk, NEIGHBOUR_WINDOW)

    def ahead(self, inode: int, chunk: int) -> list[int]:
        """Chunks of the same file to start on now: none until two chunks were read one after the other."""
        last, row = self._streams.get(inode, (-1, 0))
        if chunk == last:
            return []
        row = row + 1 if chunk == last + 1 and last >= 0 else 0
        self._streams[inode] = chunk, row
        self._streams.move_to_end(inode)
        if len(self._streams) > _FILES_REMEMBERED:
            self._streams.popitem(last=False)
        if not row:
            return []
        return self._tree.file_chunks(inode, chunk + 1, min(2 * row, AHEAD_MAX))
