"""The command crfs-overlayfs, run as podman and people run it."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs import __version__
from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import Crfs, Done, crfs_in, need_fuse, run_program, wait_until

COMMAND = (sys.executable, "-P", "-m", "crfs.cli.overlayfs")
VERSION = f"crfs-overlayfs: version {__version__}\nfuse-overlayfs: version 1.10\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Directories to mount: of what is in `low` nothing is in `up`."""
    for name in ("low", "up", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "low/file").write_text("below")
    return tmp_path


@pytest.fixture
def crfs(place: Path) -> Iterator[Crfs]:
    """Takes mounts in `place` down, and proves that nothing is left."""
    need_fuse()
    with crfs_in(place) as commands:
        yield commands


def run(*words: str, crfs: Crfs | None = None, cwd: Path | None = None) -> Done:
    """The command to its end, and to that of its output: a daemon must have let go of it."""
    done = subprocess.run(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=None if crfs is None else crfs.environment,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str) -> None:
    assert run(word) == Done(0, VERSION, "")
    assert run("-o", "lowerdir=x", word, "m") == Done(0, VERSION, "")


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(word: str) -> None:
    done = run(word)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("usage: crfs-overlayfs [options] <mountpoint>\n")
    assert max(map(len, done.out.splitlines())) < 100


def test_version_as_podman_shows_it(tmp_path: Path) -> None:
    need_root()
    need_programs(["podman"])
    program = tmp_path / "mount-program"
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    config = tmp_path / "storage.conf"
    config.write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n'
        f'[storage.options.overlay]\nmount_program = "{program}"\n'
    )
    template = '{{index .Store.GraphOptions "overlay.mount_program" "Version"}}'
    shown = run_program("podman", "info", "--format", template, env={"CONTAINERS_STORAGE_CONF": str(config)})
    assert shown.decode() == VERSION


def test_as_podman_calls(place: Path, crfs: Crfs) -> None:
    (place / "l").mkdir()
    (place / "l/ID1").symlink_to("../low")
    options = f"lowerdir={place}/l/ID1,upperdir={place}/up,workdir={place}/work,,volatile"
    assert run("-o", options, f"{place}/merged", crfs=crfs, cwd=place).silent
    assert (place / "merged/file").read_text() == "below"
    (place / "merged/file").write_text("changed")
    assert (place / "up/file").read_text() == "changed"
    run_program("fusermount", "-u", place / "merged")
    crfs.expect_nothing()
    assert crfs.log == ""


def test_relative_paths(place: Path, crfs: Crfs) -> None:
    assert run("-o", "lowerdir=low,upperdir=up,workdir=work", "merged", crfs=crfs, cwd=place).silent
    (place / "merged/new").touch()
    assert (place / "up/new").exists()


def test_without_upperdir_read_only(place: Path, crfs: Crfs) -> None:
    assert run("-o", "lowerdir=low", "merged", crfs=crfs, cwd=place).silent
    assert (place / "merged/file").read_text() == "below"
    with pytest.raises(OSError, match="Read-only"):
        (place / "merged/new").touch()
    (line,) = crfs.mounts()
    assert "ro" in line.options


def test_mountpoint_with_files_in_it(place: Path, crfs: Crfs) -> None:
    (place / "merged/hidden").touch()
    assert run("-o", "lowerdir=low", "merged", crfs=crfs, cwd=place).silent
    assert os.listdir(place / "merged") == ["file"]


def test_names_with_separators(place: Path, crfs: Crfs) -> None:
    for name in ("a:b", "c,d", "e\\f"):
        (place / name).mkdir()
        (place / name / f"in {name}").touch()
    assert run("-o", "lowerdir=a\\:b:c\\,d:e\\\\f", "merged", crfs=crfs, cwd=place).silent
    assert sorted(os.listdir(place / "merged")) == ["in a:b", "in c,d", "in e\\f"]


def test_foreground(place: Path, crfs: Crfs) -> None:
    command = [*COMMAND, "-f", "-o", "lowerdir=low", "merged"]
    with subprocess.Popen(
        command, cwd=place, env=crfs.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: bool(crfs.mounts()), 20)
        wait_until(lambda: os.listdir(place / "merged") == ["file"], 20)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 0
    assert not crfs.leftovers()


def test_options_for_libfuse(place: Path, crfs: Crfs) -> None:
    need_root()
    flags = "nosuid,nodev,noexec,noatime,async,sync,dirsync,nonempty,default_permissions,allow_other"
    values = "max_read=65536,max_write=65536,max_readahead=65536,max_background=9,congestion_threshold=5"
    options = f"lowerdir=low,{flags},{values},fsname=a\\,b"
    assert run("-o", options, "merged", crfs=crfs, cwd=place).silent
    (line,) = crfs.mounts()
    assert line.source == "a,b"
    assert line.options > {"nosuid", "nodev", "noexec", "noatime", "allow_other", "max_read=65536"}


def test_unknown_option_is_said_and_ignored(place: Path, crfs: Crfs) -> None:
    done = run("-o", "lowerdir=low,metacopy=on", "merged", crfs=crfs, cwd=place)
    assert done == Done(0, "", "crfs-overlayfs: 'metacopy=on': unknown option, ignored\n")
    assert os.listdir(place / "merged") == ["file"]


def test_should_fail_wrong_use(place: Path) -> None:
    done = run("-o", "lowerdir=low,upperdir=up", "merged", cwd=place)
    assert done == Done(
        2, "", "crfs-overlayfs: workdir= is missing: upperdir= needs one, on the same file system\n"
    )


@pytest.mark.parametrize(
    ("options", "at", "named"),
    [
        ("lowerdir=low", "nowhere", "nowhere"),
        ("lowerdir=low", "low/file", "low/file"),
        ("lowerdir=low:missing", "merged", "missing"),
        ("lowerdir=low,upperdir=missing,workdir=work", "merged", "missing"),
        ("lowerdir=low,upperdir=up,workdir=missing", "merged", "missing"),
        (f"lowerdir=//crfs/{base64.b64encode(b'/no/layer').decode()}/x", "merged", "/no/layer"),
    ],
)
def test_should_fail_what_is_missing(place: Path, crfs: Crfs, options: str, at: str, named: str) -> None:
    done = run("-o", options, at, crfs=crfs, cwd=place)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("crfs-overlayfs: ")
    assert named in done.err
    assert done.err.count("\n") == 1


def test_should_fail_in_a_directory_that_is_gone(tmp_path: Path) -> None:
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@" -o lowerdir=low merged'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("crfs-overlayfs: the current directory: ")
