"""An image of very many small files in three layers: what costs by the entry, not by the byte.

A hundred to a directory. The second layer replaces a hundredth of the first one's files; the third hides as
many, and makes one directory opaque. The content is of the file's number, and compresses as source text does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from benches.recipes.layertar import LayerTar, layer_tar

PER_DIRECTORY = 100


def layers_of(count: int) -> Callable[[Path], None]:
    """What builds the layers of an image of `count` files: 1.tar with nearly all of them, 2.tar, 3.tar."""

    def build_layers(into: Path) -> None:
        with layer_tar(into / "1.tar") as layer:
            layer.directory("./")
            _files(layer, "./lib", range(count * 9 // 10))
        with layer_tar(into / "2.tar") as layer:
            _files(layer, "app", range(count * 9 // 10, count))
            _files(layer, "lib", range(0, count * 9 // 10, 100))
        with layer_tar(into / "3.tar") as layer:
            for number in range(50, count * 9 // 10, 100):
                layer.whiteout(_name("lib", number))
            layer.directory(_parent("app", count - 1))
            layer.opaque(_parent("app", count - 1))

    return build_layers


def content(number: int) -> bytes:
    """Some 300 to 1,500 bytes."""
    seed = hashlib.sha256(str(number).encode()).hexdigest()
    lines = (f"{seed[i % 60 : i % 60 + 4]} = compute(value_{i}, {number})\n" for i in range(8 + number % 30))
    return "".join(lines).encode()


def _files(layer: LayerTar, top: str, numbers: range) -> None:
    made: set[str] = set()
    for number in numbers:
        for directory in _parents(top, number):
            if directory not in made:
                layer.directory(directory)
                made.add(directory)
        layer.file(_name(top, number), content(number))


def _parents(top: str, number: int) -> list[str]:
    parent = _parent(top, number)
    return [top, parent.rpartition("/")[0], parent]


def _parent(top: str, number: int) -> str:
    directory = number // PER_DIRECTORY
    return f"{top}/{directory // PER_DIRECTORY:03}/{directory % PER_DIRECTORY:02}"


def _name(top: str, number: int) -> str:
    return f"{_parent(top, number)}/module_{number:06}.py"
