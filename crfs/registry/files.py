"""Where the registry keeps bytes: what its storage asks of a place, in memory or on disk.

Keys are slash-separated paths of components that the storage has checked. The loop thread calls everything
but `Appender.digest` and `Appender.move`, which may take long and run in a worker.
"""

from pathlib import Path
from typing import Protocol, Self

from msgspec import Struct


class AppenderBusy(Exception):
    """Another request, or another process, is writing to the same key."""


class Source(Struct, frozen=True):
    """Stored bytes that don't change any more: `size` of them, in memory or in a file."""

    size: int
    content: bytes | Path


class Appender(Protocol):
    """The only writer of one growing key, until it is closed."""

    @property
    def size(self) -> int:
        """Bytes written so far, by this writer and those before it."""

    def append(self, data: bytes) -> None:
        """Add `data` to the end."""

    def truncate(self, size: int) -> None:
        """Forget what came after the first `size` bytes."""

    def digest(self, algorithm: str) -> str:
        """ALGORITHM:HEX of all bytes, read again: what is stored is what was checked."""

    def move(self, key: str) -> None:
        """Give the bytes their final key, in place of what may be there; then only close() is allowed."""

    def close(self) -> None:
        """Let the next writer in."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Files(Protocol):
    """A place for bytes. A reader of a key sees all of an old value or all of a new one, never a mixture."""

    def find_bytes(self, key: str) -> bytes | None:
        """The value of `key`."""

    def find_source(self, key: str) -> Source | None:
        """The value of `key`, unread."""

    def find_size(self, key: str) -> int | None:
        """The bytes that `key` has, also while it grows."""

    def store(self, key: str, data: bytes) -> None:
        """Set the value of `key`; of two writers the last one wins."""

    def open_appender(self, key: str, *, create: bool = False) -> Appender | None:
        """The writer of `key`, None where it doesn't exist; AppenderBusy while there is another."""

    def delete(self, key: str) -> bool:
        """Drop `key`; whether it was there."""

    def list_names(self, key: str) -> list[str]:
        """The names of what has a value directly below `key`, in no order."""
