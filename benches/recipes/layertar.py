"""Write a layer's tar entry by entry, in the order and with the attributes that a recipe says."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# 2024-01-02 03:04:05 UTC
MTIME = 1704164645


class LayerTar:
    """One open tar in PAX format. Names are written as given: `a`, `./a` and `a/` are all fine in a layer.

    Names that are not UTF-8 are str with surrogate escapes.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._entries: dict[str, tarfile.TarInfo] = {}

    def directory(self, name: str, mode: int = 0o755, **attributes: object) -> None:
        self._add(name, tarfile.DIRTYPE, mode, attributes)

    def file(self, name: str, content: bytes = b"", mode: int = 0o644, **attributes: object) -> None:
        self._add(name, tarfile.REGTYPE, mode, attributes, content)

    def symlink(self, name: str, target: str, **attributes: object) -> None:
        self._add(name, tarfile.SYMTYPE, 0o777, {"linkname": target, **attributes})

    def link(self, name: str, target: str) -> None:
        """A hard link to an earlier entry of this layer, with that one's attributes, as tar writes it."""
        origin = self._entries[_clean(target)]
        owner = {"uid": origin.uid, "gid": origin.gid, "mtime": origin.mtime}
        self._add(name, tarfile.LNKTYPE, origin.mode, {"linkname": target, **owner})

    def fifo(self, name: str, mode: int = 0o644, **attributes: object) -> None:
        self._add(name, tarfile.FIFOTYPE, mode, attributes)

    def device(self, name: str, kind: bytes, major: int, minor: int, mode: int = 0o660) -> None:
        """`kind` is tarfile.CHRTYPE or tarfile.BLKTYPE."""
        self._add(name, kind, mode, {"devmajor": major, "devminor": minor})

    def whiteout(self, name: str) -> None:
        """Hide what the layers below have under `name`."""
        head, _, tail = name.rpartition("/")
        self.file(f"{head}/.wh.{tail}" if head else f".wh.{tail}")

    def opaque(self, directory: str) -> None:
        """Hide all that the layers below have in `directory`."""
        self.file(f"{directory}/.wh..wh..opq")

    def _add(
        self, name: str, kind: bytes, mode: int, attributes: dict[str, object], content: bytes = b""
    ) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size = kind, mode, MTIME, len(content)
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        self._tar.addfile(info, io.BytesIO(content))
        self._entries[_clean(name)] = info


@contextmanager
def layer_tar(path: Path) -> Iterator[LayerTar]:
    """A new layer at `path`, finished when the block ends."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        yield LayerTar(tar)


def _clean(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def xattrs(**values: bytes) -> dict[str, str]:
    """PAX records for extended attributes; `__` in a keyword stands for the dot of its name."""
    return {
        f"SCHILY.xattr.{name.replace('__', '.')}": value.decode("utf-8", "surrogateescape")
        for name, value in values.items()
    }


def noise(seed: int, size: int) -> bytes:
    """Bytes that compress to about half and are the same for a seed everywhere."""
    return random.Random(seed).randbytes((size + 1) // 2).hex().encode()[:size]
