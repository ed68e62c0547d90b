"""An image of two layers with one file of 256 MB and two small ones.

The content is of real files of this machine, shared objects and text, in the order of their names, so that
it compresses as programs do (to 35 to 45 %): pieces that are mostly padding or text tables are left out.
It's the same for the same machine only.
"""

from __future__ import annotations

import itertools
import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from benches.recipes.layertar import layer_tar

BIG_NAME = "data/big.bin"
BIG_SIZE = 256 << 20

_PIECE = 1 << 20
_LEAST = 0.25


def build_layers(into: Path) -> None:
    """Write 1.tar, two small files, and 2.tar, the big one."""
    with layer_tar(into / "1.tar") as layer:
        layer.directory("./")
        layer.directory("./etc")
        layer.file("./etc/hostname", b"bigfile\n")
        layer.file("./etc/motd", b"one large file lives in /data\n")
    with layer_tar(into / "2.tar") as layer:
        layer.directory("data")
        layer.file(BIG_NAME, _content(BIG_SIZE))


def _content(size: int) -> bytes:
    """Pieces of programs and of text, seven to one, again from the start when they run out."""
    content = bytearray()
    while len(content) < size:
        before = len(content)
        programs, text = _programs(), _text()
        while piece := b"".join(itertools.islice(programs, 7)):
            content += piece + next(text, b"")
            if len(content) >= size:
                break
        if len(content) == before:
            raise FileNotFoundError("no shared objects on this machine to make a big file of")
    return bytes(content[:size])


def _programs() -> Iterator[bytes]:
    root = Path("/usr/lib")
    return _pieces(path for path in _walk(root) if ".so" in path.name)


def _text() -> Iterator[bytes]:
    root = Path(sysconfig.get_path("stdlib"))
    return _pieces(path for path in _walk(root) if path.suffix in (".py", ".txt", ".h"))


def _walk(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _pieces(paths: Iterator[Path]) -> Iterator[bytes]:
    held = bytearray()
    for path in paths:
        held += path.read_bytes()
        while len(held) >= _PIECE:
            piece = bytes(held[:_PIECE])
            del held[:_PIECE]
            if len(zlib.compress(piece, 1)) > _LEAST * _PIECE:
                yield piece
