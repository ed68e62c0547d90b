from collections.abc import Callable, Collection, Iterable

from crfs._native.layerindex import LayerIndex
from crfs.errors import FormatError
from crfs.formats.toc import TocEntry

class LossyTocError(FormatError): ...

def fill_index(
    index: LayerIndex, json: bytes, iter_toc: Callable[[bytes], Iterable[TocEntry]], hidden: Collection[str]
) -> dict[str, int]: ...
