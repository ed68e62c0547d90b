from collections.abc import Sequence

from crfs._native.layerindex import LayerIndex

def merge(layers: Sequence[LayerIndex]) -> bytes: ...
