"""An image of one file of 256 MB in eight chunks of 32 MiB (tag esgz-32m), each of which compresses to 1 MiB.

For tests that count what a read fetches; quick to build, since most of it is zeros.
"""

from __future__ import annotations

import random
from pathlib import Path

from benches.recipes.layertar import layer_tar

NAME = "data/chunks.bin"
CHUNK = 32 << 20
COUNT = 8
RANDOM = 1 << 20


def build_layers(into: Path) -> None:
    """Write 1.tar."""
    with layer_tar(into / "1.tar") as layer:
        layer.directory("data")
        layer.file(NAME, b"".join(chunk(number) for number in range(COUNT)))


def chunk(number: int) -> bytes:
    """The content of a chunk: RANDOM bytes that don't compress, and zeros."""
    return random.Random(number).randbytes(RANDOM).ljust(CHUNK, b"\0")
