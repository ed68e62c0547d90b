"""Debian's minbase as one layer and a small update of it as another."""

from __future__ import annotations

from pathlib import Path

from benches.recipes.debian import debootstrap, make_tar
from benches.recipes.layertar import layer_tar


def build_layers(into: Path) -> None:
    """Write 1.tar, the tree, and 2.tar, the update."""
    tree = into / "tree"
    debootstrap(tree)
    make_tar(into / "1.tar", tree, ".")
    with layer_tar(into / "2.tar") as layer:
        layer.whiteout("usr/share/bug")
        layer.whiteout("usr/bin/rgrep")
        layer.directory("usr/share/doc")
        layer.opaque("usr/share/doc")
        layer.file("usr/share/doc/README", b"the documentation is gone\n")
        layer.file("etc/debian_version", b"crfs\n")
        layer.directory("etc/crfs")
        layer.symlink("etc/crfs/version", "../debian_version")
