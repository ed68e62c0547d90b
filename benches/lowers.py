"""Unpack a stack of layer tars into one directory each, as lower directories of overlayfs.

Whiteouts become character devices 0:0 and opaque marks the attribute trusted.overlay.opaque. Needs root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from benches.commands import run

_PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"


def unpack_all(layers: Iterable[Path], into: Path) -> None:
    """Unpack the layers, bottom first, into `into`/1, `into`/2 and so on."""
    for number, layer in enumerate(layers, start=1):
        lower = into / str(number)
        lower.mkdir()
        options = ["--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*"]
        run("tar", "-C", lower, *options, "-xf", layer)
        translate(lower)


def translate(lower: Path) -> None:
    """Turn a layer's `.wh.` entries into what overlayfs reads, keeping the directories' times."""
    for directory, _, files in os.walk(os.fsencode(lower)):
        marks = [name for name in files if name.startswith(_PREFIX)]
        if marks:
            before = os.lstat(directory)
            for name in marks:
                _mark(directory, name)
            os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def _mark(directory: bytes, name: bytes) -> None:
    os.unlink(os.path.join(directory, name))
    if name == _OPAQUE:
        os.setxattr(directory, "trusted.overlay.opaque", b"y")
        return
    target = os.path.join(directory, name.removeprefix(_PREFIX))
    if not os.path.lexists(target):
        os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(0, 0))
