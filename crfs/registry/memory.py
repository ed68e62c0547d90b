"""Files in memory: gone with the process. Single keys may be read from any thread."""

import hashlib
from typing import Self

from crfs.registry.files import AppenderBusy, Source


class MemoryFiles:
    """`files.Files` as a dictionary."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._growing: dict[str, bytearray] = {}
        self._busy: set[str] = set()

    def find_bytes(self, key: str) -> bytes | None:
        return self._values.get(key)

    def find_source(self, key: str) -> Source | None:
        value = self._values.get(key)
        return None if value is None else Source(len(value), value)

    def find_size(self, key: str) -> int | None:
        value = self._growing.get(key, self._values.get(key))
        return None if value is None else len(value)

    def store(self, key: str, data: bytes) -> None:
        self._values[key] = data

    def open_appender(self, key: str, *, create: bool = False) -> "MemoryAppender | None":
        if key in self._busy:
            raise AppenderBusy(key)
        if create:
            self._growing[key] = bytearray()
        elif key not in self._growing:
            return None
        self._busy.add(key)
        return MemoryAppender(self, key)

    def delete(self, key: str) -> bool:
        grew = self._growing.pop(key, None) is not None
        return self._values.pop(key, None) is not None or grew

    def list_names(self, key: str) -> list[str]:
        prefix = key + "/"
        names = (name.removeprefix(prefix) for name in list(self._values) if name.startswith(prefix))
        return [name for name in names if "/" not in name]

    def growing(self, key: str) -> bytearray:
        """For the appender: the bytes of `key` so far."""
        return self._growing[key]

    def move(self, old: str, new: str) -> None:
        """For the appender: `old` has stopped growing and is called `new` now."""
        self._values[new] = bytes(self._growing.pop(old))

    def release(self, key: str) -> None:
        """For the appender: the next one may have `key`."""
        self._busy.discard(key)


class MemoryAppender:
    """`files.Appender` over a bytearray."""

    def __init__(self, files: MemoryFiles, key: str) -> None:
        self._files = files
        self._key = key
        self._data = files.growing(key)

    @property
    def size(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        self._data += data

    def truncate(self, size: int) -> None:
        del self._data[size:]

    def digest(self, algorithm: str) -> str:
        return f"{algorithm}:{hashlib.new(algorithm, self._data).hexdigest()}"

    def move(self, key: str) -> None:
        self._files.move(self._key, key)

    def close(self) -> None:
        self._files.release(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
