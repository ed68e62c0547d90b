"""Files in a directory, which several registries may serve at the same time.

Values appear by rename, so that a reader or a crash never meets half of one; nothing is flushed to the disk
itself, so that a power cut may lose what was pushed last. Growing files are guarded by flock(2).
"""

import fcntl
import hashlib
import os
import uuid
from pathlib import Path
from typing import Self

from crfs.registry.files import AppenderBusy, Source


class DirectoryFiles:
    """`files.Files` below `root`, which is made when first written to."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_bytes(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def find_source(self, key: str) -> Source | None:
        size = self.find_size(key)
        return None if size is None else Source(size, self._root / key)

    def find_size(self, key: str) -> int | None:
        try:
            return (self._root / key).stat().st_size
        except FileNotFoundError:
            return None

    def store(self, key: str, data: bytes) -> None:
        staged = self._root / "staging" / uuid.uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_bytes(data)
            self.move(staged, key)
        except OSError:
            staged.unlink(missing_ok=True)
            raise

    def move(self, path: Path, key: str) -> None:
        """Give a finished file its final key."""
        target = self._root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)

    def open_appender(self, key: str, *, create: bool = False) -> "DirectoryAppender | None":
        path = self._root / key
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        try:
            return DirectoryAppender(self, path)
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> bool:
        try:
            (self._root / key).unlink()
        except FileNotFoundError:
            return False
        return True

    def list_names(self, key: str) -> list[str]:
        try:
            with os.scandir(self._root / key) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []


class DirectoryAppender:
    """`files.Appender` over a locked file. FileNotFoundError or AppenderBusy where it can't be had."""

    def __init__(self, files: DirectoryFiles, path: Path) -> None:
        self._files = files
        self._path = path
        self._file = path.open("r+b", buffering=0)
        try:
            self._lock()
        except BaseException:
            self._file.close()
            raise
        self._size = self._file.seek(0, os.SEEK_END)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AppenderBusy(self._path.name) from error
        # between open and flock the writer before us may have finished the file: it must not grow any more
        if not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
            raise FileNotFoundError(self._path)

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            rest = rest[written:]
            self._size += written

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._size = self._file.seek(size)

    def digest(self, algorithm: str) -> str:
        with self._path.open("rb", buffering=0) as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"

    def move(self, key: str) -> None:
        self._files.move(self._path, key)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
