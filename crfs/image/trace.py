"""What a program touched first, in which order: recorded while it runs, kept as JSON lines, found again in a tree.

    {"path": "usr/bin/python3", "layer": "sha256:...", "chunk": 0, "ms": 12.5, "blob": [4096, 9000], "digest": "..."}

`chunk` is where in the file the chunk begins, `ms` the milliseconds since the image was opened; what comes behind
may be left out. No I/O; any thread.
"""

import os
import time
from collections.abc import Iterable, Sequence

import msgspec

from crfs._native.index import Tree
from crfs.errors import FormatError
from crfs.layers.layer import Layer

# more than any start needs; a trace must not grow with every run
TOUCHES_MAX = 50_000


class Touch(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first touch of a chunk.

    `blob` and `digest` say where its member lies in the layer's blob, and what the chunk's SHA-256 is, in hexadecimal:
    with them, fetching can begin before the layer's TOC is here.
    """

    path: str
    layer: str
    chunk: int
    ms: float
    blob: tuple[int, int] | None = None
    digest: str = ""


class Recorder:
    """Notes the first touch of each chunk, for `seconds` at most (None: for ever)."""

    def __init__(self, tree: Tree, layers: Sequence[Layer], seconds: float | None) -> None:
        self._tree = tree
        self._layers = layers
        self._seen = bytearray(tree.chunks)
        self._touched: list[tuple[int, float]] = []
        self._began = time.monotonic()
        self._until = None if seconds is None else self._began + seconds

    def touch(self, chunk: int) -> None:
        """A chunk is read. Two that are first at once may both be noted."""
        if self._seen[chunk]:
            return
        self._seen[chunk] = 1
        now = time.monotonic()
        if self._until is None or now < self._until:
            self._touched.append((chunk, (now - self._began) * 1000))

    def touches(self) -> list[Touch]:
        """What was noted, in its order."""
        return [self._describe(chunk, ms) for chunk, ms in list(self._touched)]

    def _describe(self, chunk: int, ms: float) -> Touch:
        place = self._tree.chunk(chunk)
        path = os.fsdecode(self._tree.path(self._tree.owner(chunk)))
        layer = self._layers[place.layer]
        where = (place.blob_off, place.blob_end) if layer.lazy else None
        digest = (place.digest or b"").hex()
        return Touch(path, layer.name, place.file_off, round(ms, 1), where, digest)


def encode_trace(touches: Iterable[Touch]) -> bytes:
    """As JSON lines. A path that is not UTF-8 can't be written, and is left out."""
    return b"".join(msgspec.json.encode(touch) + b"\n" for touch in touches if _is_text(touch.path))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_trace(body: bytes) -> list[Touch]:
    """The touches of JSON lines; FormatError with the number of the line that is none."""
    found = []
    for number, line in enumerate(body.splitlines(), 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=Touch))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise FormatError(f"line {number} is no line of a trace: {error}") from error
    return found[:TOUCHES_MAX]


def merge_traces(old: Sequence[Touch], new: Sequence[Touch]) -> list[Touch]:
    """What either has, by time; of a chunk that both have, the earlier touch."""
    first: dict[tuple[str, int], Touch] = {}
    for touch in (*old, *new):
        key = (touch.path, touch.chunk)
        if key not in first or touch.ms < first[key].ms:
            first[key] = touch
    return sorted(first.values(), key=lambda touch: touch.ms)[:TOUCHES_MAX]


def find_chunks(tree: Tree, touches: Iterable[Touch]) -> list[int]:
    """The chunks that a trace names, in its order; what the tree does not have is passed over."""
    found: dict[int, None] = {}
    for touch in touches:
        inode = 1
        for name in os.fsencode(touch.path).split(b"/"):
            inode = tree.find(inode, name) if inode else 0
        if inode and tree.attributes(inode).mode & 0o170000 == 0o100000:
            chunks = tree.cover(inode, touch.chunk, 1)
            if chunks and chunks[0][0] >= 0:
                found[chunks[0][0]] = None
    return list(found)
