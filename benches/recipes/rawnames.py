"""A tiny image of one layer whose names, targets and owners' names are not UTF-8.

A TOC is JSON and can't carry such names, so only its plain form is faithful.
"""

from __future__ import annotations

from pathlib import Path

from benches.recipes.layertar import layer_tar


def build_layers(into: Path) -> None:
    """Write 1.tar."""
    with layer_tar(into / "1.tar") as layer:
        layer.directory("./")
        layer.directory("./latin\udce9")
        layer.file("./latin\udce9/caf\udce9", b"latin 1")
        layer.file("./\udcff\udcfe", b"no encoding at all")
        layer.file("./" + "\udc80" * 255, b"the longest name")
        layer.symlink("./symlink", "latin\udce9/caf\udce9")
        layer.link("./hard\udcfflink", "./\udcff\udcfe")
