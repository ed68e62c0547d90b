from collections.abc import Container, Iterable

from crfs._native.layerindex import LayerIndex
from crfs.errors import FormatError
from crfs.formats.toc import TocEntry

class LossyTocError(FormatError): ...

def fill_index(index: LayerIndex, entries: Iterable[TocEntry], hidden: Container[str]) -> dict[str, int]: ...
