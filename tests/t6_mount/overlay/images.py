"""A stack of directories as an image, and the engine erofs over it. One thread, as root."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

from crfs.convert.headers import set_mtime
from tests.support.overlaymounts import CrfsEngine, FuseMount, Layers
from tests.support.rawregistry import digest_of
from tests.t6_mount.images import TAR, Layer, write_layout

_OPAQUE = "trusted.overlay.opaque"


@dataclass(frozen=True, slots=True)
class ImageEngine(CrfsEngine):
    """`crfs mount --engine` of an image made of the lower directories, which is kept below `images`."""

    images: Path = Path()

    def mount(self, layers: Layers, at: Path, *options: str) -> FuseMount:
        stack = layers.lowers[0].parent.name.replace(" ", "-")
        layout = self.images / stack
        if not layout.exists():
            write_layout(layout, *map(_layer, layers.lowers))
        return self.mount_source(f"oci:{layout}:v1", replace(layers, lowers=()), at)


def _layer(root: Path) -> Layer:
    out, first_names = io.BytesIO(), dict[int, str]()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for path in [root, *sorted(root.rglob("*"))]:
            info = _header(tar, path, str(path.relative_to(root)))
            if info is None:
                tar.addfile(tarfile.TarInfo(f"{path.parent.relative_to(root)}/.wh.{path.name}"))
                continue
            first = first_names.setdefault(path.lstat().st_ino, info.name)
            if first != info.name:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
            tar.addfile(info, io.BytesIO(path.read_bytes()) if info.isreg() else None)
            if _OPAQUE in os.listxattr(path, follow_symlinks=False):
                tar.addfile(tarfile.TarInfo(f"{info.name}/.wh..wh..opq"))
    return Layer(out.getvalue(), TAR, digest_of(out.getvalue()))


def _header(tar: tarfile.TarFile, path: Path, name: str) -> tarfile.TarInfo | None:
    """Of what has the name in a layer; None for a whiteout."""
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return None
    info = tar.gettarinfo(path, name)
    info.pax_headers = {
        f"SCHILY.xattr.{key}": os.getxattr(path, key, follow_symlinks=False).decode(
            "utf-8", "surrogateescape"
        )
        for key in os.listxattr(path, follow_symlinks=False)
        if key != _OPAQUE
    }
    set_mtime(info, status.st_mtime_ns)
    return info
