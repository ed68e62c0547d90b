"""Real images, built once: as tar layers, OCI layout, tags in a registry, and unpacked by umoci.

Not a bench. Benches and big tests call `image(NAME)` for the files and `pushed(NAME, registry)` for the tags.
`python -m benches.images [--only NAME,...]` builds what is missing. Needs root, and Debian's programs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benches import lowers
from benches.cache import cache_dir, once, remove_tree
from benches.commands import missing_programs, run
from benches.containerd import containerd, min_chunk_converter
from benches.recipes import bigfile, minbase, pyapp, quirks, rawnames
from benches.registry import Registry, registry

log = logging.getLogger(__name__)

TAGS = ("plain", "esgz", "esgz-min")
PROGRAMS = ("docker-registry", "skopeo", "umoci", "containerd", "ctr", "ctr-remote", "tar")

_CREATED = "2025-01-01T00:00:00Z"
_ESTARGZ = ("--estargz", "--oci")
_MIN_CHUNK = ("--estargz-min-chunk-size", "65536")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made. Another `revision` is another image: the older one's files are not used."""

    name: str
    revision: int
    build_layers: Callable[[Path], None]
    programs: tuple[str, ...] = PROGRAMS


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("quirks", 2, quirks.build_layers),
        Recipe("rawnames", 1, rawnames.build_layers),
        Recipe("bigfile", 1, bigfile.build_layers),
        Recipe("minbase", 1, minbase.build_layers, (*PROGRAMS, "debootstrap")),
        Recipe("pyapp", 1, pyapp.build_layers, (*PROGRAMS, "debootstrap")),
    )
}


@dataclass(frozen=True, slots=True)
class Image:
    """An image's files in the cache, `layers` and `lowers` bottom first.

    `layers` are uncompressed tars, `lowers` the same unpacked for overlayfs, `oracle` is what umoci unpacked.
    """

    name: str
    repository: str
    layers: tuple[Path, ...]
    layout: Path
    oracle: Path
    lowers: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """How large an image is; `blob_bytes` are the layers' compressed sizes by tag."""

    layers: int
    entries: int
    tar_bytes: int
    blob_bytes: dict[str, int]


def image(name: str) -> Image:
    """The image's files, built now where they are missing. Raises KeyError, CommandFailed, OSError."""
    recipe = RECIPES[name]
    repository = f"{recipe.name}-{recipe.revision}"
    root = cache_dir() / "images" / repository
    layers = _tars(once(root / "layers", lambda into: _build_layers(recipe, into)))
    layout = once(root / "oci", lambda into: _build_layout(layers, into))
    bundle = once(root / "bundle", lambda into: _unpack(layout, into))
    stack = once(root / "lowers", lambda into: lowers.unpack_all(layers, into))
    unpacked = tuple(stack / str(number) for number in range(1, len(layers) + 1))
    return Image(name, repository, layers, layout, bundle / "rootfs", unpacked)


def pushed(name: str, served: Registry, tags: Sequence[str] = TAGS) -> dict[str, str]:
    """Reference (HOST:PORT/REPOSITORY:TAG) by tag, of the image in the registry; pushed now where missing."""
    built = image(name)
    refs = {tag: f"{served.host}/{built.repository}:{tag}" for tag in tags}
    marks = served.storage / ".pushed" / built.repository
    for tag in ("plain", *tags):
        once(marks / tag, lambda _, tag=tag: _push(built, served, tag))  # type: ignore[misc]
    return refs


def figures(name: str, served: Registry, tags: Sequence[str] = TAGS) -> Figures:
    """Count and weigh an image that is in the registry."""
    built, refs = image(name), pushed(name, served, tags)
    entries = 0
    for layer in built.layers:
        with tarfile.open(layer) as tar:
            entries += sum(1 for _ in tar)
    tar_bytes = sum(layer.stat().st_size for layer in built.layers)
    blobs = {tag: sum(_blob_sizes(ref)) for tag, ref in refs.items()}
    return Figures(len(built.layers), entries, tar_bytes, blobs)


def missing(name: str) -> list[str]:
    """The programs that building the image needs and this machine lacks."""
    return missing_programs(*RECIPES[name].programs)


def _tars(layers: Path) -> tuple[Path, ...]:
    return tuple(sorted(layers.glob("*.tar"), key=lambda path: int(path.stem)))


def _build_layers(recipe: Recipe, into: Path) -> None:
    recipe.build_layers(into)
    remove_tree(into / "tree")


def _build_layout(layers: Iterable[Path], into: Path) -> None:
    layout = into / "layout"
    run("umoci", "init", "--layout", layout)
    tagged = f"{layout}:plain"
    run("umoci", "new", "--image", tagged)
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", tagged, "--history.created", _CREATED, layer)
    settings = ("--config.cmd", "/bin/sh", "--config.env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    run("umoci", "config", "--image", tagged, "--created", _CREATED, "--no-history", *settings)
    run("umoci", "gc", "--layout", layout)
    for item in layout.iterdir():
        item.rename(into / item.name)
    layout.rmdir()


def _unpack(layout: Path, into: Path) -> None:
    bundle = into / "bundle"
    run("umoci", "unpack", "--image", f"{layout}:plain", bundle)
    (bundle / "rootfs").rename(into / "rootfs")
    remove_tree(bundle)


def _push(built: Image, served: Registry, tag: str) -> None:
    base = f"{served.host}/{built.repository}"
    if tag == "plain":
        run(
            "skopeo",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            f"oci:{built.layout}:plain",
            f"docker://{base}:plain",
        )
        return
    with containerd() as daemon:
        daemon.fetch(f"{base}:plain")
        if tag == "esgz":
            daemon.convert(f"{base}:plain", f"{base}:{tag}", *_ESTARGZ)
        else:
            program = min_chunk_converter()
            daemon.convert(f"{base}:plain", f"{base}:{tag}", *_ESTARGZ, *_MIN_CHUNK, program=program)


def _blob_sizes(ref: str) -> list[int]:
    manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{ref}"))
    return [int(layer["size"]) for layer in manifest["layers"]]


def main(argv: Sequence[str] | None = None) -> None:
    """Build and push what is missing, then print each image's figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benches.images", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="pyapp,bigfile,quirks", help="names, with commas between them")
    parser.add_argument("--tags", default=",".join(TAGS), help="tags, with commas between them")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if os.geteuid() != 0:
        parser.error("building images needs root")
    with registry() as served:
        tags = options.tags.split(",")
        report = {name: asdict(figures(name, served, tags)) for name in options.only.split(",")}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
