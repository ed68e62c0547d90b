"""What becomes a layer: a blob of an image, a tar, or a directory, each as entries or as the bytes of a tar."""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from crfs.blobs.blob import Blob
from crfs.convert.entries import TarEntry
from crfs.convert.plain import tar_pieces
from crfs.convert.stream import LayerStream, iter_blob
from crfs.convert.targets import Submit
from crfs.convert.tarstream import TarStream
from crfs.convert.tree import TreeReader
from crfs.errors import CrfsError, FormatError

Seen = Callable[[int], None]
_PIECE = 1 << 20


class Entries(Protocol):
    """The entries of a layer, once, in their order; at the end `tail` is what lay behind them."""

    tail: bytes

    def __iter__(self) -> Iterator[TarEntry]: ...


class Input(Protocol):
    """Can be opened several times. `size` in bytes of what is read, None where nobody knows; any CrfsError."""

    @property
    def name(self) -> str:
        """Fit for messages."""
        ...

    @property
    def size(self) -> int | None: ...

    def open_entries(self, seen: Seen) -> AbstractContextManager[Entries]:
        """Its entries; it is read and verified to its end when the block ends."""
        ...

    def open_pieces(self, seen: Seen) -> AbstractContextManager[Iterable[bytes]]:
        """Its tar; verified once all of it has come."""
        ...


class BlobInput:
    """A layer's blob, opened by `opener`; `digest` is what it must have, if that is known."""

    def __init__(
        self, name: str, size: int | None, digest: str | None, opener: Callable[[], Blob], submit: Submit
    ) -> None:
        self.name = name
        self.size = size
        self._digest = digest
        self._opener = opener
        self._submit = submit

    def _stream(self, seen: Seen) -> LayerStream:
        return LayerStream(iter_blob(self._submit, self._opener()), self._digest, self.name, seen)

    @contextlib.contextmanager
    def open_entries(self, seen: Seen) -> Generator[TarStream, None, None]:
        """See `Input`."""
        with self._stream(seen) as stream, self._named():
            yield TarStream(stream)
            stream.drain()

    @contextlib.contextmanager
    def open_pieces(self, seen: Seen) -> Generator[Iterable[bytes], None, None]:
        """See `Input`."""
        with self._stream(seen) as stream, self._named():
            yield iter(stream.read_piece, b"")

    @contextlib.contextmanager
    def _named(self) -> Generator[None, None, None]:
        try:
            yield
        except FormatError as error:
            told = str(error).startswith(f"{self.name}: ")
            raise FormatError(str(error) if told else f"{self.name}: {error}") from error


class _TreeEntries:
    """Entries that come from files."""

    tail = b""

    def __init__(self, entries: Iterable[TarEntry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[TarEntry]:
        return iter(self._entries)


class TreeInput:
    """A directory, with all that is in it; `read` makes its entries."""

    def __init__(self, path: Path, read: Callable[[Path], Iterable[TarEntry]] | None = None) -> None:
        self.name = str(path)
        self.size = None
        self._path = path
        self._read = read or (lambda path: TreeReader().iter_tree(str(path), "."))

    @contextlib.contextmanager
    def open_entries(self, seen: Seen) -> Generator[Entries, None, None]:
        """See `Input`."""
        with _file_errors(self._path):
            yield _TreeEntries(self._counted(seen))

    @contextlib.contextmanager
    def open_pieces(self, seen: Seen) -> Generator[Iterable[bytes], None, None]:
        """See `Input`."""
        with _file_errors(self._path):
            yield tar_pieces(self._counted(seen))

    def _counted(self, seen: Seen) -> Iterator[TarEntry]:
        for entry in self._read(self._path):
            yield entry
            seen(entry.info.size)


@contextlib.contextmanager
def _file_errors(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        where = error.filename if error.filename is not None else path
        raise CrfsError(f"{os.fsdecode(where)}: {error.strerror or error}") from error
