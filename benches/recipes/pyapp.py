"""An application in Python as people ship one: Debian, packages from PyPI, the application, two updates.

It has no extended attributes, so that walks of it show what most images' walks cost.
"""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

from benches.commands import run
from benches.recipes.debian import NEWEST, chroot, debootstrap, make_tar
from benches.recipes.layertar import LayerTar, layer_tar

PACKAGES = (
    "numpy==2.2.6",
    "pandas==2.2.3",
    "scipy==1.15.3",
    "sympy==1.14.0",
    "Django==5.2.1",
    "botocore==1.38.20",
)

_SITE = "usr/local/lib/python3.11/dist-packages"
_PARENTS = ("usr", "usr/local", "usr/local/lib", "usr/local/lib/python3.11")
_MODULES = 300


def build_layers(into: Path) -> None:
    """Write 1.tar (Debian with python3), 2.tar (packages), 3.tar (application), 4.tar and 5.tar (updates)."""
    tree = into / "tree"
    debootstrap(tree, "python3", "ca-certificates", "python3-dev")
    make_tar(into / "1.tar", tree, ".")
    install(tree)
    make_tar(into / "2.tar", tree, _SITE, parents=_PARENTS)
    with layer_tar(into / "3.tar") as layer:
        _application(layer)
    with layer_tar(into / "4.tar") as layer:
        _update(layer)
    with layer_tar(into / "5.tar") as layer:
        _replacement(layer)


def install(tree: Path) -> None:
    """Install the packages into the tree and compile them with the tree's own python3.

    Times are set first, since a .pyc holds its source's.
    """
    wheels = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--no-compile"]
    platforms = ["--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"]
    target = tree / _SITE
    run(sys.executable, "-m", "pip", "install", "-q", *wheels, *platforms, "--target", target, *PACKAGES)
    for directory, names, files in os.walk(target):
        for name in names + files:
            os.utime(os.path.join(directory, name), (NEWEST, NEWEST), follow_symlinks=False)
    chroot(tree, "python3", "-m", "compileall", "-q", "-j", "2", f"/{_SITE}")


def _application(layer: LayerTar) -> None:
    for name in (
        "opt",
        "opt/app",
        "opt/app/bin",
        "opt/app/lib",
        "opt/app/static",
        "opt/app/run",
        "opt/app/old",
    ):
        layer.directory(name)
    for number in range(_MODULES):
        source = f'"""Module {number}."""\n\nVALUE = {number}\n' + "# padding\n" * (number % 50)
        layer.file(f"opt/app/lib/module_{number:03}.py", source.encode())
        layer.file(f"opt/app/old/module_{number:03}.py", source.encode())
    for number in range(0, _MODULES, 10):
        layer.link(f"opt/app/static/linked_{number:03}.py", f"opt/app/lib/module_{number:03}.py")
        layer.symlink(f"opt/app/static/symlink_{number:03}.py", f"../lib/module_{number:03}.py")
    layer.file("opt/app/bin/helper", b"#!/bin/sh\nexec id\n", mode=0o4755)
    layer.fifo("opt/app/run/queue", mode=0o600)
    layer.device("opt/app/run/null", tarfile.CHRTYPE, 1, 3, mode=0o666)
    layer.file("opt/app/static/" + "n" * 255, b"the longest name there is\n", uid=33, gid=33)
    layer.directory("opt/app/cache", mode=0o1777)
    layer.file("opt/app/cache/stale", b"x" * 5000)
    layer.file("opt/app/plugins", b"a file until layer 5\n")


def _update(layer: LayerTar) -> None:
    """Whiteouts and an opaque directory."""
    for number in range(0, _MODULES, 25):
        layer.whiteout(f"opt/app/lib/module_{number:03}.py")
    layer.directory("opt/app/cache", mode=0o1777)
    layer.opaque("opt/app/cache")
    layer.file("opt/app/cache/fresh", b"y" * 5000)
    layer.whiteout(f"{_SITE}/botocore/data/ec2")
    layer.file("opt/app/lib/module_001.py", b"VALUE = 'updated'\n")


def _replacement(layer: LayerTar) -> None:
    """A file where a directory was, and the other way round."""
    layer.file("opt/app/old", b"a directory until layer 5\n")
    layer.directory("opt/app/plugins")
    layer.file("opt/app/plugins/one.py", b"VALUE = 1\n")
    layer.file("opt/app/lib/module_000.py", b"VALUE = 'back again'\n")
    layer.file("etc/app.conf", b"[app]\nworkers = 2\n")
