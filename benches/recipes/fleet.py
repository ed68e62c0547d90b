"""Ten images of a service each, that have the layer of a common runtime below one of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benches.recipes.layertar import layer_tar
from benches.recipes.many import content

COUNT = 10
_RUNTIME = 3000
_OWN = 300


def layers_of(number: int) -> Callable[[Path], None]:
    """What builds the layers of one of the ten."""

    def build_layers(into: Path) -> None:
        _layer(into / "1.tar", "./runtime", range(_RUNTIME))
        _layer(into / "2.tar", "./service", range(number * 10000, number * 10000 + _OWN))

    return build_layers


def _layer(path: Path, top: str, numbers: range) -> None:
    with layer_tar(path) as layer:
        layer.directory("./")
        layer.directory(top)
        for number in numbers:
            layer.file(f"{top}/{number:06}.py", content(number) * 8)
