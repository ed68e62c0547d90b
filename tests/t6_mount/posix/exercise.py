"""Random reads and writes of one file against a model in memory, as a program: `exercise.py PATH SEED STEPS [FROM TO]`.

With FROM and TO it stays within these bytes, which are its own, while other processes do the same in theirs. Says what
is wrong, and the steps before it, and fails.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections.abc import Callable

_SIZE_MAX = 400_000
_PIECE_MAX = 70_000


class Wrong(Exception):
    """The file is not what was written."""


class Exercise:
    """One file, and what it must hold from `start` on."""

    def __init__(self, path: str, seed: int, start: int, end: int | None) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._start = start
        self._end = end
        self._fd = os.open(path, os.O_RDWR)
        size = os.fstat(self._fd).st_size if end is None else end - start
        self._model = bytearray(os.pread(self._fd, size, start))
        self.said: list[str] = []

    def run(self, steps: int) -> None:
        """Take steps; Wrong."""
        calls: list[Callable[[], str]] = [
            self._read,
            self._write,
            self._write,
            self._map_read,
            self._map_write,
        ]
        calls += [self._reopen, self._sync]
        if self._end is None:
            calls += [self._truncate, self._extend, self._append]
        for _ in range(steps):
            self.said.append(self._random.choice(calls)())
        self._check(os.pread(self._fd, len(self._model) + 1, self._start)[: len(self._model)], 0)
        os.close(self._fd)

    def _span(self) -> tuple[int, int]:
        """A place and a length within the model."""
        off = self._random.randrange(len(self._model) + 1)
        return off, self._random.randrange(min(_PIECE_MAX, len(self._model) - off) + 1)

    def _data(self, size: int) -> bytes:
        return self._random.randbytes(16) * (size // 16) + self._random.randbytes(size % 16)

    def _check(self, got: bytes, off: int) -> None:
        wanted = self._model[off : off + len(got)]
        if got != wanted:
            at = next(
                (at for at, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]),
                len(wanted),
            )
            raise Wrong(f"byte {off + at} of {len(self._model)} is not what was written")
        size = os.fstat(self._fd).st_size
        if self._end is None and size != len(self._model):
            raise Wrong(f"the size is {size}, and should be {len(self._model)}")

    def _read(self) -> str:
        off, size = self._span()
        got = os.pread(self._fd, size, self._start + off)
        if len(got) != size:
            raise Wrong(f"{len(got)} bytes of {size} at {off} of {len(self._model)}")
        self._check(got, off)
        return f"read {size} at {off}"

    def _write(self) -> str:
        off, size = self._span()
        self._put(off, self._data(size))
        return f"write {size} at {off}"

    def _put(self, off: int, data: bytes) -> None:
        os.pwrite(self._fd, data, self._start + off)
        self._model[off : off + len(data)] = data

    def _extend(self) -> str:
        """Write behind the end, which leaves a hole."""
        off = min(len(self._model) + self._random.randrange(10_000), _SIZE_MAX)
        self._model.extend(bytes(max(off - len(self._model), 0)))
        self._put(off, self._data(self._random.randrange(1, 10_000)))
        return f"write at {off}, behind the end"

    def _append(self) -> str:
        data = self._data(self._random.randrange(5_000))
        with open(self._path, "ab", buffering=0) as file:
            file.write(data)
        self._model += data
        return f"append {len(data)}"

    def _truncate(self) -> str:
        size = self._random.choice(
            (0, self._random.randrange(_SIZE_MAX), self._random.randrange(len(self._model) + 1))
        )
        if self._random.randrange(2):
            os.truncate(self._path, size)
        else:
            os.ftruncate(self._fd, size)
        del self._model[size:]
        self._model.extend(bytes(size - len(self._model)))
        return f"truncate to {size}"

    def _mapped(self, access: int) -> mmap.mmap | None:
        end = self._start + len(self._model)
        return mmap.mmap(self._fd, end, mmap.MAP_SHARED, access) if self._model else None

    def _map_read(self) -> str:
        off, size = self._span()
        if mapped := self._mapped(mmap.PROT_READ):
            with mapped:
                self._check(mapped[self._start + off : self._start + off + size], off)
        return f"map and read {size} at {off}"

    def _map_write(self) -> str:
        off, size = self._span()
        data = self._data(size)
        if mapped := self._mapped(mmap.PROT_READ | mmap.PROT_WRITE):
            with mapped:
                mapped[self._start + off : self._start + off + size] = data
                if self._random.randrange(2):
                    mapped.flush()
            self._model[off : off + size] = data
        return f"map and write {size} at {off}"

    def _reopen(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)
        return "open again"

    def _sync(self) -> str:
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return "sync, and drop what is cached"


def main(path: str, seed: int, steps: int, start: int = 0, end: int | None = None) -> str | None:
    """None, or what is wrong."""
    exercise = Exercise(path, seed, start, end)
    try:
        exercise.run(steps)
    except Wrong as wrong:
        return "\n".join([*exercise.said[-20:], f"step {len(exercise.said)}: {wrong}"])
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
