"""A blob that is a local file, opened on first use and kept open, so that it may be unlinked. Fetch loop."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncGenerator

from crfs.blobs.blob import Sink
from crfs.errors import NotFoundError, TransportError

# up to here a read is done on the loop: handing it to a thread costs more
INLINE_MAX = 64 << 10
PIECE = 1 << 20


class FileBlob:
    """The bytes of the regular file at `path`, which must not change while it is read."""

    def __init__(self, path: str, name: str | None = None, size: int | None = None) -> None:
        self._path = os.path.abspath(path)  # whoever becomes a daemon changes its directory
        self._name = name or path
        self._expected = size
        self._file: tuple[int, int] | None = None  # descriptor, size
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    async def fetch_range(self, start: int, end: int) -> bytes:
        """See `Blob.fetch_range`."""
        if not 0 <= start <= end:
            raise ValueError(f"not a range: [{start}, {end})")
        descriptor, size = self._open()
        if end > size:
            raise TransportError(f"{self._name}: asked for bytes up to {end} of {size}")
        if end - start <= INLINE_MAX:
            return self._read(descriptor, start, end)
        return await asyncio.get_running_loop().run_in_executor(None, self._read, descriptor, start, end)

    async def stream_range(self, start: int, end: int, sink: Sink) -> None:
        """See `Blob.stream_range`."""
        for at in range(start, end, PIECE):
            await sink(await self.fetch_range(at, min(at + PIECE, end)))

    async def fetch_tail(self, size: int) -> tuple[bytes, int]:
        """See `Blob.fetch_tail`."""
        total = self._open()[1]
        return await self.fetch_range(max(0, total - size), total), total

    async def iter_body(self) -> AsyncGenerator[bytes, None]:
        """See `Blob.iter_body`."""
        total = self._open()[1]
        for start in range(0, total, PIECE):
            yield await self.fetch_range(start, min(start + PIECE, total))

    def close(self) -> None:
        """Closes the file; a later read opens it again."""
        with self._lock:
            if self._file is not None:
                os.close(self._file[0])
                self._file = None

    def _open(self) -> tuple[int, int]:
        """The descriptor and the size; NotFoundError, TransportError, naming the path."""
        with self._lock:
            if self._file is None:
                self._file = self._open_file()
            return self._file

    def _open_file(self) -> tuple[int, int]:
        try:
            # O_NONBLOCK: a FIFO must not hang the loop; it is refused below
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFoundError(f"{self._name}: no such file") from error
        except (OSError, ValueError) as error:
            raise TransportError(f"{self._name}: {getattr(error, 'strerror', None) or error}") from error
        try:
            return descriptor, self._checked_size(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise

    def _checked_size(self, status: os.stat_result) -> int:
        if not stat.S_ISREG(status.st_mode):
            raise TransportError(f"{self._name}: not a regular file")
        if self._expected is not None and self._expected != status.st_size:
            raise TransportError(f"{self._name}: has {status.st_size} bytes, not {self._expected}")
        return status.st_size

    def _read(self, descriptor: int, start: int, end: int) -> bytes:
        pieces = []
        while start < end:
            try:
                piece = os.pread(descriptor, end - start, start)
            except OSError as error:
                raise TransportError(f"{self._name}: {error.strerror}") from error
            if not piece:
                raise TransportError(f"{self._name}: became shorter while it was being read")
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
