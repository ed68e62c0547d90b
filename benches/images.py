"""Real images, built once: as tar layers, OCI layout, tags in a registry, and unpacked by umoci.

Not a bench. Benches and big tests ask for `layers`, `layout`, `oracle`, `lower_dirs` and `pushed`; each is
built when it's first asked for and kept in the cache. Building needs root and Debian's programs.
`python -m benches.images [--only NAME,...]` builds what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benches import lowers, mounts
from benches.cache import cache_dir, once, remove_tree
from benches.commands import CommandFailed, missing_programs, run
from benches.containerd import containerd, newer_converter
from benches.machine import commit
from benches.processes import interrupt_on_signals
from benches.programs import import_numpy
from benches.recipes import bigfile, chunks, fleet, many, minbase, pyapp, quirks, rawnames
from benches.registry import Registry, registry

log = logging.getLogger(__name__)

TAGS = ("plain", "esgz", "esgz-min")
# what other converters write that can be read lazily; only tests ask for them
FOREIGN_TAGS = ("esgz-ext", "zstd", "zstd-skopeo")
PROGRAMS = ("docker-registry", "skopeo", "umoci", "containerd", "ctr", "ctr-remote", "tar")

_CREATED = "2025-01-01T00:00:00Z"
_ESTARGZ = ("--estargz", "--oci")
_CONVERSIONS = {
    "esgz": _ESTARGZ,
    "esgz-min": (*_ESTARGZ, "--estargz-min-chunk-size", "65536"),
    "esgz-ext": (*_ESTARGZ, "--estargz-external-toc", "--estargz-keep-diff-id"),
    "esgz-32m": (*_ESTARGZ, "--estargz-chunk-size", str(chunks.CHUNK)),
    "zstd": ("--zstdchunked", "--oci"),
}
# tags of what crfs writes: crfs-CHUNK-MIN[-traced], crfs-stargz, or crfs-zstd-chunked[-CHUNK]
_CRFS_TAG = "crfs-"
# the one that benches ask about: it has nothing that some reader of eStargz doesn't know
ESTARGZ = "crfs-4M-0"


class NoWriter(Exception):
    """No tool on this machine writes the format."""


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
        Recipe("bigfile", 2, bigfile.build_layers),
        Recipe("chunks", 1, chunks.build_layers),
        Recipe("many", 1, many.layers_of(100_000)),
        Recipe("many-large", 1, many.layers_of(500_000)),
        *(Recipe(f"fleet-{number}", 1, fleet.layers_of(number)) for number in range(fleet.COUNT)),
        Recipe("minbase", 2, minbase.build_layers, (*PROGRAMS, "debootstrap")),
        Recipe("pyapp", 2, pyapp.build_layers, (*PROGRAMS, "debootstrap")),
    )
}


@dataclass(frozen=True, slots=True)
class Figures:
    """How large an image is; `blob_bytes` are the layers' compressed sizes by tag."""

    layers: int
    entries: int
    tar_bytes: int
    blob_bytes: dict[str, int]


def repository(name: str) -> str:
    """The image's name in a registry. Raises KeyError where no recipe has the name."""
    return f"{name}-{RECIPES[name].revision}"


def layers(name: str) -> list[Path]:
    """The layers as uncompressed tars, bottom first."""
    built = once(_root(name) / "layers", lambda into: _build_layers(RECIPES[name], into))
    return sorted(built.glob("*.tar"), key=lambda path: int(path.stem))


def layout(name: str) -> Path:
    """An OCI layout with the image, its layers compressed by gzip, under the tag `plain`."""
    return once(_root(name) / "oci", lambda into: _build_layout(layers(name), into))


def oracle(name: str) -> Path:
    """The tree that `umoci unpack` makes of the image."""
    return once(_root(name) / "bundle", lambda into: _unpack(layout(name), into)) / "rootfs"


def lower_dirs(name: str) -> list[Path]:
    """Each layer unpacked for overlayfs, bottom first."""
    built = once(_root(name) / "lowers", lambda into: lowers.unpack_all(layers(name), into))
    return sorted(built.iterdir(), key=lambda path: int(path.name))


def archive(name: str) -> Path:
    """One tar of the unpacked tree."""
    return once(_root(name) / "archive", lambda into: _pack_tar(oracle(name), into)) / "tree.tar"


def squashfs(name: str) -> Path:
    """A squashfs of the unpacked tree, compressed by zstd."""
    return once(_root(name) / "squashfs", lambda into: _pack_squashfs(oracle(name), into)) / "tree.squashfs"


def entries(name: str) -> int:
    """How many names the layers have, all together."""
    built = once(_root(name) / "entries", lambda into: _write_entries(layers(name), into))
    return int((built / "count").read_text())


def writer(name: str, served: Registry, tag: str) -> str:
    """The tool that wrote the image's blobs under a tag, with its version if that was noted."""
    note = served.storage / ".pushed" / repository(name) / tag / "writer"
    return note.read_text() if note.exists() else _tool(tag)


def pushed_tags(name: str, served: Registry) -> list[str]:
    """The tags that the registry has of the image."""
    marks = served.storage / ".pushed" / repository(name)
    return sorted(mark.name for mark in marks.glob("*") if mark.is_dir() and not mark.suffix)


def pushed(name: str, served: Registry, tag: str) -> str:
    """The reference (HOST:PORT/REPOSITORY:TAG) of the image in the registry, pushed now if it's not there."""
    marks = served.storage / ".pushed" / repository(name)
    if tag != "plain":
        pushed(name, served, "plain")
    once(marks / tag, lambda mark: _push_and_note(name, served, tag, mark))
    return f"{served.host}/{repository(name)}:{tag}"


def crfs_tag(way: str) -> str:
    """The tag of what `crfs convert` writes with `--chunk-size A --min-chunk-size B`, as `A-B`.

    `A-B-traced` has what a start reads in front; `stargz`, `zstd:chunked` and `zstd:chunked-A` are in that format.
    """
    return _CRFS_TAG + way.replace(":", "-")


def pushed_bytes(name: str, served: Registry, tag: str) -> int:
    """The sum of the layers that the image has under a tag."""
    return sum(_blob_sizes(pushed(name, served, tag)))


def figures(name: str, served: Registry, tags: Sequence[str] = TAGS) -> Figures:
    """Count and weigh an image, which is pushed where it's missing."""
    tars = layers(name)
    blobs = {tag: pushed_bytes(name, served, tag) for tag in tags}
    return Figures(len(tars), entries(name), sum(tar.stat().st_size for tar in tars), blobs)


def missing(name: str) -> list[str]:
    """The programs that building the image needs and this machine lacks."""
    return missing_programs(*RECIPES[name].programs)


def _root(name: str) -> Path:
    return cache_dir() / "images" / repository(name)


def _build_layers(recipe: Recipe, into: Path) -> None:
    recipe.build_layers(into)
    remove_tree(into / "tree")


def _build_layout(tars: Sequence[Path], into: Path) -> None:
    built = into / "layout"
    run("umoci", "init", "--layout", built)
    tagged = f"{built}:plain"
    run("umoci", "new", "--image", tagged)
    for tar in tars:
        run("umoci", "raw", "add-layer", "--image", tagged, "--history.created", _CREATED, tar)
    settings = ("--config.cmd", "/bin/sh", "--config.env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    run("umoci", "config", "--image", tagged, "--created", _CREATED, "--no-history", *settings)
    run("umoci", "gc", "--layout", built)
    for item in built.iterdir():
        item.rename(into / item.name)
    built.rmdir()


def _unpack(source: Path, into: Path) -> None:
    bundle = into / "bundle"
    run("umoci", "unpack", "--image", f"{source}:plain", bundle)
    (bundle / "rootfs").rename(into / "rootfs")
    remove_tree(bundle)


def _pack_tar(tree: Path, into: Path) -> None:
    run("tar", "-C", tree, "--numeric-owner", "--sort=name", "-cf", into / "tree.tar", ".")


def _pack_squashfs(tree: Path, into: Path) -> None:
    target = into / "tree.squashfs"
    # of the levels of zstd the one that crfs converts by, too
    level = ("-comp", "zstd", "-Xcompression-level", "6")
    run("mksquashfs", tree, target, *level, "-no-progress", "-quiet", "-noappend")


def _push_and_note(name: str, served: Registry, tag: str, mark: Path) -> None:
    _push(name, served, tag)
    (mark / "writer").write_text(f"{_tool(tag)} {_version(tag)}")


def _tool(tag: str) -> str:
    if tag.startswith(_CRFS_TAG):
        return "crfs"
    return "umoci" if tag == "plain" else "ctr-remote"


def _version(tag: str) -> str:
    """Of the tool's package, since ctr-remote says containerd's version for its own."""
    if tag.startswith(_CRFS_TAG):
        return f"at {commit()}"
    if tag == "esgz-min":
        return "of a later Debian"
    package = "umoci" if tag == "plain" else "stargz-snapshotter"
    try:
        return run("dpkg-query", "-W", "-f", "${Version}", package)
    except (OSError, CommandFailed):
        return "not of Debian"


def _push(name: str, served: Registry, tag: str) -> None:
    base = f"{served.host}/{repository(name)}"
    if tag == "plain":
        source, target = f"oci:{layout(name)}:plain", f"docker://{base}:plain"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", source, target)
        return
    if tag.startswith(_CRFS_TAG):
        _push_by_crfs(name, served, tag)
        return
    if tag == "zstd-skopeo":
        _push_by_skopeo(layout(name), f"{base}:{tag}")
        return
    program = newer_converter() if tag in ("esgz-min", "esgz-ext") else "ctr-remote"
    with containerd() as daemon:
        daemon.fetch(f"{base}:plain")
        daemon.convert(f"{base}:plain", f"{base}:{tag}", *_CONVERSIONS[tag], program=program)
        if tag == "esgz-ext":
            daemon.push(f"{base}:{tag}-esgztoc")


def _push_by_skopeo(source: Path, ref: str) -> None:
    """Push as zstd:chunked; only layers that are not compressed yet are."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as plain:
        run("skopeo", "copy", "-q", "--dest-decompress", f"oci:{source}:plain", f"dir:{plain}")
        flags = ("--dest-compress-format", "zstd:chunked", "--dest-tls-verify=false")
        run("skopeo", "copy", "-q", *flags, f"dir:{plain}", f"docker://{ref}")


def _push_by_crfs(name: str, served: Registry, tag: str) -> None:
    """Push as the tag says."""
    words = tag.removeprefix(_CRFS_TAG).removesuffix("-traced")
    if words.startswith("zstd-chunked"):
        options = ["--format", "zstd:chunked"]
        chunk = words.removeprefix("zstd-chunked").removeprefix("-")
        options += ["--chunk-size", chunk] if chunk else []
    elif words == "stargz":
        options = ["--format", "stargz"]
    else:
        chunk, least = words.split("-")
        options = ["--chunk-size", chunk, "--min-chunk-size", least]
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        if tag.endswith("-traced"):
            trace = Path(scratch, "trace")
            _record_start(pushed(name, served, tag.removesuffix("-traced")), Path(scratch), trace)
            options += ["--trace", str(trace)]
        target = f"docker://{served.host}/{repository(name)}:{tag}"
        run(mounts.crfs_program(), "convert", *options, f"oci:{layout(name)}:plain", target)


def _record_start(ref: str, scratch: Path, trace: Path) -> None:
    """Note what the program of `start` reads."""
    with mounts.crfs(ref, scratch / "tree", scratch / "cache", "--record", str(trace)) as mount:
        import_numpy(mount)


def _write_entries(tars: Sequence[Path], into: Path) -> None:
    (into / "count").write_text(str(sum(map(_count, tars))))


def _count(tar: Path) -> int:
    with tarfile.open(tar) as entries:
        return sum(1 for _ in entries)


def _blob_sizes(ref: str) -> list[int]:
    manifest = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{ref}"))
    return [int(layer["size"]) for layer in manifest["layers"]]


@contextmanager
def built_beside(names: Sequence[str]) -> Iterator[None]:
    """Have another process build images, on another core, and done by the end of the block.

    What it can't build is missing afterwards, and whoever asks for it is told why.
    """
    root = Path(__file__).resolve().parent.parent
    words = ["--only", ",".join(names), "--tags", f"plain,{ESTARGZ}"]
    if not names or all((_root(name) / "oci").exists() for name in names):
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-m", "benches.images", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        try:
            yield
        except BaseException:
            process.terminate()
            raise


def main(argv: Sequence[str] | None = None) -> None:
    """Build and push what is missing, then print each image's figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benches.images", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="pyapp,bigfile,quirks", help="names, with commas between them")
    parser.add_argument("--tags", default=",".join((*TAGS, ESTARGZ)), help="tags, with commas between them")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if os.geteuid() != 0:
        parser.error("building images needs root")
    interrupt_on_signals()
    try:
        with registry() as served:
            tags = options.tags.split(",")
            report = {name: _build_all(name, served, tags) for name in options.only.split(",")}
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(report, indent=2))


def _build_all(name: str, served: Registry, tags: Sequence[str]) -> dict[str, object]:
    oracle(name)
    lower_dirs(name)
    return asdict(figures(name, served, tags))


if __name__ == "__main__":
    main()
