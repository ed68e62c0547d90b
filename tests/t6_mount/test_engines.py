"""Engines: which one is chosen, what it refuses, and that nothing is left of it however it ends."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from crfs.mount.mountpoint import PLACES
from tests.support.layers import Dir, Entry, File
from tests.support.mounting import Crfs, Readers, run_program, wait_until
from tests.t6_mount.images import estargz_layer, write_layout

IMAGE: list[Entry] = [
    Dir("./"),
    Dir("dir"),
    File("dir/file", b"image"),
    File("file", b"f" * 5000),
    File("marked", b"m", xattrs={"trusted.overlay.metacopy": b"", "user.kept": b"k"}),
]
Stacked = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A source that is an image."""
    return write_layout(tmp_path / "layout", estargz_layer(IMAGE))


@pytest.fixture
def stacked(crfs: Crfs, image: str, tmp_path: Path) -> Stacked:
    """Mounts the image writably."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()

    def mount(*options: str, at: Path | None = None) -> Path:
        return crfs.mount(image, "--upper", tmp_path / "upper", "--work", tmp_path / "work", *options, at=at)

    return mount


def fstype(crfs: Crfs, root: Path) -> str:
    """Of the topmost mount there."""
    return [line.fstype for line in crfs.mounts() if line.at == root][-1]


def state(crfs: Crfs) -> dict[str, object]:
    """What is known of the only mount."""
    (path,) = crfs.states()
    found: dict[str, object] = msgspec.json.decode(path.read_bytes())
    return found


def places() -> list[str]:
    """Private places that are there."""
    try:
        return os.listdir(Path("/run/crfs", PLACES))
    except FileNotFoundError:
        return []


def test_what_is_written_to_is_the_kernels(crfs: Crfs, stacked: Stacked, tmp_path: Path) -> None:
    """The image's own marks are none; a change of mode copies no bytes; a whiteout is the kernel's."""
    root = stacked("--engine", "overlay")
    assert fstype(crfs, root) == "overlay"
    assert (state(crfs)["engine"], state(crfs)["passed_over"]) == ("overlay", {})
    assert (root / "marked").read_bytes() == b"m"
    assert os.listxattr(root / "marked") == ["user.kept"]
    (root / "file").chmod(0o600)
    assert os.stat(tmp_path / "upper/file").st_blocks * 512 < 5000
    (root / "dir/file").unlink()
    (root / "dir/new").write_text("new")
    crfs.umount(root)
    crfs.expect_nothing()
    again = stacked("--engine", "fuse", at=root)
    assert sorted(os.listdir(again / "dir")) == ["new"]


def test_an_image_is_the_kernels_and_directories_are_not(crfs: Crfs, image: str, tmp_path: Path) -> None:
    root = crfs.mount(image)
    assert fstype(crfs, root) == "overlay"
    assert (state(crfs)["engine"], state(crfs)["passed_over"]) == ("erofs", {})
    crfs.umount(root)
    crfs.mount(image, "--lower", tmp_path, at=root)
    found = state(crfs)
    assert found["engine"] == "fuse"
    assert "one image" in str(found["passed_over"])
    assert "nothing is written" in str(found["passed_over"])


@pytest.mark.parametrize("option", ["allow_root", "auto_unmount"])
def test_what_only_fuse_can_do(crfs: Crfs, stacked: Stacked, option: str) -> None:
    root = stacked("-o", option)
    assert fstype(crfs, root) == "fuse.crfs"
    assert option in str(state(crfs)["passed_over"])


def test_mount_flags(crfs: Crfs, stacked: Stacked) -> None:
    root = stacked("-o", "engine=overlay,nosuid,noexec,exec,fsname=a name")
    (line,) = crfs.mounts()
    assert (line.at, line.source) == (root, "a name")
    assert line.options >= {"nosuid"}
    assert not line.options & {"noexec", "nodev", "ro"}


def test_plain_umount_ends_all(crfs: Crfs, stacked: Stacked) -> None:
    root = stacked("--no-server")
    place = f"{crfs.daemon()}-"
    (root / "new").touch()
    run_program("umount", root)
    crfs.expect_nothing()
    assert not [name for name in places() if name.startswith(place)]


def test_sigterm_ends_all_while_it_is_used(crfs: Crfs, stacked: Stacked, readers: Readers) -> None:
    root = stacked("--no-server")
    reader = readers.start("sh", "-c", f"exec <{root}/file; echo; exec sleep 60")
    assert reader.stdout is not None
    reader.stdout.readline()
    os.kill(crfs.daemon(), signal.SIGTERM)
    crfs.expect_nothing()


def test_a_lazy_umount_serves_on_until_all_is_closed(crfs: Crfs, stacked: Stacked) -> None:
    root = stacked("--no-server")
    with open(root / "file", "rb") as file:
        crfs.umount(root, "--lazy")
        assert crfs.pids()
        assert file.read() == b"f" * 5000
    crfs.expect_nothing()


def test_after_a_kill_there_are_errors_and_a_new_mount(crfs: Crfs, stacked: Stacked) -> None:
    root = stacked("--no-server")
    (root / "new").write_text("kept")
    assert "file" in os.listdir(root)
    pid = crfs.daemon()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    with pytest.raises(OSError) as lost:
        (root / "file").read_bytes()
    assert lost.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    assert stacked("--no-server", at=root) == root
    assert (root / "file").read_bytes() == b"f" * 5000
    assert (root / "new").read_text() == "kept"
    assert len(crfs.mounts()) == 1
    assert not [name for name in places() if name.startswith(f"{pid}-")]


def test_a_dead_mount_is_taken_down(crfs: Crfs, stacked: Stacked) -> None:
    root = stacked("--no-server")
    os.kill(crfs.daemon(), signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    crfs.umount(root)
    crfs.expect_nothing()


def test_places_of_the_dead_are_taken_away(crfs: Crfs, image: str, stacked: Stacked) -> None:
    """Not those whose process can't be seen, but where somebody answers."""
    base = Path("/run/crfs", PLACES)
    living, dead = base / "4194999-1", base / "4194999-2"
    for place in (living, dead):
        place.mkdir(mode=0o700, parents=True)
    crfs.mount(image, "--no-server", "--engine", "fuse", at=dead)
    os.kill(crfs.daemon(), signal.SIGKILL)
    crfs.mount(image, "--no-server", "--engine", "fuse", at=living)
    try:
        stacked("--no-server")
        assert not os.path.lexists(dead)
        assert (living / "file").stat().st_size == 5000
    finally:
        crfs.umount(living)
        living.rmdir()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "overlay"), "nothing is written"),
        (("--engine", "none"), "invalid choice"),
        (("-o", "engine=none"), "none of auto"),
        (("--engine", "overlay", "-o", "allow_root", "--upper", "upper", "--work", "work"), "allow_root"),
        (("--engine", "overlay", "--upper", "bad/upper", "--work", "bad/work"), "refuses the upper"),
    ],
)
def test_should_refuse(
    crfs: Crfs, image: str, stacked: Stacked, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """An overlay is no place for another one's upper directory."""
    bad = tmp_path / "bad"
    bad.mkdir()
    with_upper = "bad/upper" in options
    if with_upper:
        stacked("--engine", "overlay", at=bad)
        for name in ("upper", "work"):
            (bad / name).mkdir()
    done = crfs.run("mount", image, crfs.new_directory(), *options, cwd=tmp_path)
    assert done.status in (1, 2)
    assert said in done.err
    if with_upper:
        crfs.umount(bad)


def test_directories_in_use_are_left_to_fuse(crfs: Crfs, stacked: Stacked) -> None:
    stacked("--engine", "fuse")
    second = stacked()
    assert fstype(crfs, second) == "fuse.crfs"
    assert any("used by another mount" in path.read_text() for path in crfs.states())


def test_in_a_user_namespace(crfs: Crfs, image: str, tmp_path: Path) -> None:
    """Marks are the user's; a directory of the image can't be renamed there, as the kernel has it."""
    upper, work, root = (tmp_path / name for name in ("upper", "work", "root"))
    for path in (upper, work, root):
        path.mkdir()
    script = f"""
        set -e
        crfs() {{ {sys.executable} -P -m crfs.cli.main "$@"; }}
        crfs mount --no-server {image} {root} --upper {upper} --work {work}
        findmnt -n -o FSTYPE {root}
        cat {root}/dir/file; echo
        rm {root}/dir/file; echo new >{root}/dir/new; chmod 600 {root}/file
        crfs umount {root}
        crfs mount --no-server --engine fuse {image} {root} --upper {upper} --work {work}
        ls {root}/dir; stat -c %a,%s {root}/file
        crfs umount {root}
    """
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=crfs.environment | {"CRFS_NO_SERVER": "1"},
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["overlay", "image", "new", "600,5000"], done
