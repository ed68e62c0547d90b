"""What a layer is made of, on its way from one format to another: tar headers, each with a way to its bytes.

Names are `str` with surrogate escapes, as tarfile has them. Blocking I/O; one thread at a time.
"""

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, Any, BinaryIO, cast

import zstandard
from msgspec import Struct

from crfs.errors import FormatError

_DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


class TarEntry(Struct, frozen=True):
    """A tar header, and `open_payload`, which gives the `info.size` bytes of a regular file.

    `raw` are the header's blocks, extended ones included, as they stood in a tar; None where there are none of use.
    """

    info: tarfile.TarInfo
    open_payload: Callable[[], IO[bytes]] = BytesIO
    raw: bytes | None = None

    @property
    def name(self) -> str:
        """The path in the layer: relative, without `.` and `..`; empty for the root."""
        return clean_name(self.info.name)


def clean_name(name: str) -> str:
    """A tar's name for a path, cleaned as in `TarEntry.name`."""
    return posixpath.normpath("/" + name).lstrip("/")


@contextmanager
def damage_as_format_error() -> Iterator[None]:
    """FormatError for what Python's readers of tar, gzip and zstd raise."""
    try:
        yield
    except _DAMAGE as error:
        raise FormatError(f"no tar, or a damaged one: {error}") from error


def iter_tar(file: BinaryIO) -> Iterator[TarEntry]:
    """The entries of a tar, plain or compressed with gzip or zstd; FormatError where it is damaged or none.

    `file` is read once, from where it stands: a payload is gone when the next entry is asked for.
    """
    with damage_as_format_error(), _open_stream(BufferedReader(_Borrowed(file), 1 << 16)) as tar:
        for info in tar:
            yield TarEntry(info, _payload_opener(tar, info))
            # tarfile keeps every header it has met
            tar.members = []  # type: ignore[attr-defined]


def list_tar(tar: tarfile.TarFile) -> list[TarEntry]:
    """The entries of an open tar; their payloads can be read in any order, until it is closed."""
    with damage_as_format_error():
        return [TarEntry(info, _payload_opener(tar, info)) for info in tar]


class _Borrowed(RawIOBase):
    """The caller's file, which stays open when its readers are closed or collected."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with memoryview(buffer) as view:
            data = self._file.read(len(view))
            view[: len(data)] = data
        return len(data)


def _payload_opener(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: tar.extractfile(info) or BytesIO()


def _open_stream(buffered: "BufferedReader[Any]") -> tarfile.TarFile:
    magic = buffered.peek(4)[:4]
    plain: IO[bytes] = buffered
    if magic[:2] == b"\x1f\x8b":
        # tarfile's own reader stops after the first gzip member
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
    elif magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        reader = zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True)
        plain = cast("IO[bytes]", reader)
    return tarfile.open(fileobj=plain, mode="r|", errors="surrogateescape")
