"""`crfs` without a mount: help, version, inspect; and the way in which mount.fuse(8) calls it."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import crfs as package
from crfs.registry.server import Registry
from tests.support.layers import Dir, Entry
from tests.support.mounting import COMMAND, Crfs
from tests.t6_mount.images import (
    estargz_layer,
    noise,
    noisy,
    push,
    stargz_layer,
    tar_layer,
    write_layout,
    zstd_layer,
)

LARGE = 200_000
ENTRIES: list[Entry] = [Dir("./"), Dir("dir"), noisy("dir/file", LARGE)]


def test_version(crfs: Crfs) -> None:
    for option in ("--version", "-v"):
        done = crfs.run(option)
        assert (done.status, done.out, done.err) == (0, f"crfs version {package.__version__}\n", "")


@pytest.mark.parametrize("command", [(), ("mount",), ("umount",), ("inspect",), ("demo",)])
def test_help(crfs: Crfs, command: tuple[str, ...]) -> None:
    done = crfs.run(*command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(('crfs', *command))}")


def test_source_alone_means_mount(registry: Registry, crfs: Crfs) -> None:
    source, at = push(registry.address, "command", estargz_layer(ENTRIES)), crfs.new_directory()
    assert crfs.run(source, at, "-o", "rw,dev,suid").silent
    assert (at / "dir/file").read_bytes() == noise("dir/file", LARGE)


def test_report_as_json(registry: Registry, crfs: Crfs) -> None:
    layers = [layer(ENTRIES) for layer in (estargz_layer, tar_layer, zstd_layer, stargz_layer)]
    source = push(registry.address, "reported", *layers)
    before = registry.counters
    done = crfs.run("inspect", "--json", source)
    assert (done.status, done.err) == (0, "")
    assert (registry.counters - before).bytes_sent < LARGE
    report = json.loads(done.out)
    assert report["name"] == source.removeprefix("docker://")
    assert re.fullmatch("sha256:[0-9a-f]{64}", report["digest"])
    assert [layer["digest"] for layer in report["layers"]] == [layer.digest for layer in layers]
    assert [layer["size"] for layer in report["layers"]] == [len(layer.data) for layer in layers]
    assert [layer["lazy"] for layer in report["layers"]] == [True, False, False, False]
    shown = [(layer["format"], layer["verified"]) for layer in report["layers"]]
    assert shown == [("estargz", "manifest"), ("tar", "whole"), ("tar+zstd", "whole"), ("stargz", "whole")]
    assert report["layers"][0]["file-bytes"] == LARGE
    assert "--allow-unverified" in report["layers"][3]["reason"]


def test_report_of_an_unverified_layer(registry: Registry, crfs: Crfs) -> None:
    source = push(registry.address, "reported-stargz", stargz_layer(ENTRIES))
    (layer,) = json.loads(crfs.run("inspect", "--json", "--allow-unverified", source).out)["layers"]
    assert (layer["lazy"], layer["verified"], layer["reason"]) == (True, "background", None)


def test_report_as_text(crfs: Crfs, tmp_path: Path) -> None:
    layers = [estargz_layer(ENTRIES), tar_layer(ENTRIES)]
    source = write_layout(tmp_path / "layout", *layers)
    done = crfs.run("inspect", source)
    assert (done.status, done.err) == (0, "")
    title, headings, *rows = done.out.splitlines()
    assert title.startswith(f"{source} sha256:")
    assert headings.split() == [
        "LAYER",
        "FORMAT",
        "LAZY",
        "VERIFIED",
        "SIZE",
        "TOC",
        "ENTRIES",
        "CHUNKS",
        "FILES",
    ]
    assert [row.split()[:4] for row in rows[:2]] == [
        [layers[0].digest[7:19], "estargz", "yes", "manifest"],
        [layers[1].digest[7:19], "tar", "no", "whole"],
    ]
    assert rows[2].startswith(f"{layers[1].digest[7:19]} is fetched whole: its format is ")


def test_report_of_a_single_blob(crfs: Crfs, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(estargz_layer(ENTRIES).data)
    report = json.loads(crfs.run("inspect", "--json", blob).out)
    assert (report["name"], report["digest"]) == (f"file://{blob}", None)
    (layer,) = report["layers"]
    assert (layer["format"], layer["lazy"], layer["verified"]) == ("estargz", True, "toc")
    assert f"file://{blob}" in crfs.run("inspect", blob).out


def test_report_that_nobody_reads(crfs: Crfs, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(estargz_layer(ENTRIES).data)
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [*COMMAND, "inspect", blob],
        stdout=write_end,
        stderr=subprocess.PIPE,
        env=crfs.environment,
        timeout=60,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")
