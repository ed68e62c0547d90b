"""The erofs engine: what the kernel shows is what llfuse shows, and nothing of it is left however it ends."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crfs.errors import MountError
from crfs.mount.engines import loopdevice
from crfs.mount.engines.choice import Wanted, choose
from crfs.mount.engines.erofsfs import mount_image
from tests.support.compare import compare_trees
from tests.support.dockerregistry import lacking
from tests.support.erofsimages import mounted, need_kernel, see, tree_of, write
from tests.support.erofstrees import files
from tests.support.layers import Device, Dir, Entry, Fifo, File, Hardlink, Symlink
from tests.support.mounting import COMMAND, Crfs, run_program, wait_until
from tests.t6_mount.images import FORMATS, noisy, write_layout
from tests.t6_mount.test_engines import fstype, places, state

RICH: list[Entry] = [
    Dir("./", mode=0o1771, uid=3, gid=4),
    Dir("dir", mode=0o2750, uid=70000, gid=1001),
    File("dir/file", b"file"),
    File("dir/same", b"file", mode=0o4755, mtime_ns=-(10**18)),
    File("dir/empty"),
    noisy("dir/chunks", 250_000),
    File("dir/zeros", bytes(100_000)),
    Hardlink("hard", "dir/chunks"),
    Symlink("link", "dir/file"),
    Symlink("long", "x/" * 2000),
    Device("null", 1, 3, mode=0o666),
    Fifo("fifo", mode=0o620),
    File("n" * 255, b"name"),
    File("attributed", b"x", xattrs={"user.a": b"1", "trusted.overlay.opaque": b"y", "security.s": b"2"}),
    *(File(f"many/{number}", b"%d" % number) for number in range(300)),
]
IMAGE = [Dir("./"), File("a", b"a" * 5000), Dir("d"), File("d/b", b"b")]


@pytest.fixture(autouse=True)
def _kernel() -> None:
    need_kernel()


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write_layout(tmp_path / "layout", FORMATS["estargz"](IMAGE))


def _mount(crfs: Crfs, source: str, *options: str | Path, at: Path | None = None) -> Path:
    return crfs.mount(source, "--engine", "erofs", "--no-server", *options, at=at)


@pytest.mark.parametrize("layout", FORMATS)
def test_kernel_and_llfuse_show_the_same(crfs: Crfs, tmp_path: Path, layout: str) -> None:
    source = write_layout(tmp_path / "layout", FORMATS[layout](RICH))
    root, oracle = _mount(crfs, source), crfs.mount(source, "--engine", "fuse")
    assert fstype(crfs, root) == "overlay"
    assert compare_trees(root, oracle) == []


def test_whiteouts_are_for_the_overlay_above(crfs: Crfs, tmp_path: Path) -> None:
    """A device 0:0 hides nothing here, and something in an overlay that has this as its upper layer."""
    source = write_layout(
        tmp_path / "layout", FORMATS["estargz"]([Dir("d"), Device("d/gone", 0, 0), File("d/kept", b"k")])
    )
    root = _mount(crfs, source)
    assert sorted(os.listdir(root / "d")) == ["gone", "kept"]
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    for path in (lower / "d", merged):
        path.mkdir(parents=True)
    (lower / "d/gone").write_text("lower")
    (lower / "d/lower").write_text("lower")
    options = f"lowerdir={root}:{lower}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
    try:
        assert sorted(os.listdir(merged / "d")) == ["kept", "lower"]
    finally:
        run_program("umount", merged)


def test_what_was_changed_is_changed_for_every_engine(crfs: Crfs, image: str, tmp_path: Path) -> None:
    upper = ("--upper", tmp_path / "upper", "--work", tmp_path / "work")
    for path in upper[1::2]:
        Path(path).mkdir()
    root = _mount(crfs, image, *upper)
    (root / "a").chmod(0o600)
    assert (tmp_path / "upper/a").stat().st_blocks * 512 < 5000
    (root / "d").rename(root / "moved")
    with (root / "moved/b").open("ab") as file:
        file.write(b"c")
    for engine in ("fuse", "overlay", "erofs"):
        crfs.umount(root)
        crfs.mount(image, "--no-server", "--engine", engine, *upper, at=root)
        assert (root / "a").read_bytes() == b"a" * 5000
        assert (root / "a").stat().st_mode & 0o777 == 0o600
        assert (root / "moved/b").read_bytes() == b"bc"
        assert sorted(os.listdir(root)) == ["a", "moved"]


def test_it_is_known_which_engine(crfs: Crfs, image: str) -> None:
    _mount(crfs, image)
    assert state(crfs)["engine"] == "erofs"


def test_the_image_is_kept(crfs: Crfs, image: str) -> None:
    seen = []
    for _ in range(2):
        root = _mount(crfs, image)
        (path,) = (crfs.cache / "images").iterdir()
        seen.append(path.stat().st_ino)
        crfs.umount(root)
    assert seen[0] == seen[1]


def test_a_blob_alone_leaves_no_image(crfs: Crfs, tmp_path: Path) -> None:
    blob = tmp_path / "layer"
    blob.write_bytes(FORMATS["estargz"](IMAGE).data)
    root = _mount(crfs, str(blob))
    assert (root / "a").read_bytes() == b"a" * 5000
    crfs.umount(root)
    assert not list((crfs.cache / "images").iterdir())


def test_plain_umount_ends_all(crfs: Crfs, image: str) -> None:
    root = _mount(crfs, image)
    place = f"{crfs.daemon()}-"
    run_program("umount", root)
    crfs.expect_nothing()
    assert not [name for name in places() if name.startswith(place)]


def test_sigterm_ends_all_while_a_file_is_open(crfs: Crfs, image: str) -> None:
    root = _mount(crfs, image)
    # to close it is an error then
    with contextlib.suppress(OSError), (root / "a").open("rb"):
        os.kill(crfs.daemon(), signal.SIGTERM)
        wait_until(lambda: not crfs.pids(), 5)
    crfs.expect_nothing()


def test_after_a_kill_names_are_left_and_bytes_are_errors(crfs: Crfs, tmp_path: Path) -> None:
    # files of such a layer are put where the kernel finds them when they are read
    image = write_layout(tmp_path / "layout", FORMATS["gzip"](IMAGE))
    root = _mount(crfs, image)
    assert (root / "d/b").read_bytes() == b"b"
    os.kill(crfs.daemon(), signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    assert sorted(os.listdir(root)) == ["a", "d"]
    with pytest.raises(OSError) as lost:
        (root / "a").read_bytes()
    assert lost.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    assert _mount(crfs, image, at=root) == root
    assert (root / "a").read_bytes() == b"a" * 5000
    assert len(crfs.mounts()) == 1


@pytest.mark.parametrize("layout", ["estargz", "gzip"])
def test_what_has_arrived_needs_no_server(crfs: Crfs, tmp_path: Path, layout: str) -> None:
    """Read through one mount, it is found by another whose server is dead, and which has never read it."""
    source = write_layout(tmp_path / "layout", FORMATS[layout](RICH))
    first = _mount(crfs, source)
    read = {name: (first / name).read_bytes() for name in ("dir/file", "dir/chunks", "dir/zeros")}
    names = len(read) + (layout == "estargz")
    wait_until(lambda: len(_objects(crfs)) >= names, 10)
    second = _mount(crfs, source)
    for pid in crfs.pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    assert {name: (second / name).read_bytes() for name in read} == read


def _objects(crfs: Crfs) -> list[Path]:
    return [path for path in (crfs.cache / "objects").rglob("*") if path.is_file()]


def test_what_an_earlier_boot_has_left_is_not_believed(crfs: Crfs, image: str) -> None:
    root = _mount(crfs, image)
    assert (root / "a").read_bytes() == b"a" * 5000
    crfs.umount(root)
    for path in _objects(crfs):
        path.write_bytes(b"lost")
    (crfs.cache / "objects.lock").write_text("another boot")
    root = _mount(crfs, image)
    assert (root / "a").read_bytes() == b"a" * 5000
    wait_until(lambda: not list((crfs.cache / "tmp").glob("objects-*")), 5)


def test_cache_verify_knows_what_is_for_the_kernel(crfs: Crfs, image: str) -> None:
    root = _mount(crfs, image)
    assert (root / "a").read_bytes() == b"a" * 5000
    wait_until(lambda: bool(_objects(crfs)), 10)
    done = crfs.run("cache", "verify", "--json")
    assert (done.status, '"damaged":[]' in done.out.replace(" ", "")) == (0, True), done
    assert not list((crfs.cache / "images").iterdir())
    crfs.umount(root)
    assert (_mount(crfs, image) / "a").read_bytes() == b"a" * 5000


def test_with_record_every_read_is_seen(crfs: Crfs, image: str, tmp_path: Path) -> None:
    for number in range(2):
        root = _mount(crfs, image, "--record", tmp_path / f"trace{number}")
        assert (root / "a").read_bytes() == b"a" * 5000
        crfs.umount(root)
    assert b'"a"' in (tmp_path / "trace1").read_bytes()


def test_a_dead_mount_is_taken_down(crfs: Crfs, image: str) -> None:
    root = _mount(crfs, image)
    os.kill(crfs.daemon(), signal.SIGKILL)
    wait_until(lambda: not crfs.pids(), 5)
    crfs.umount(root)
    crfs.expect_nothing()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "allow_root"), "allow_root is FUSE's"),
        (("--lower", "."), "it carries one image, and nothing beside it"),
    ],
)
def test_should_refuse(crfs: Crfs, image: str, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = crfs.run("mount", image, crfs.new_directory(), "--engine", "erofs", *options, cwd=tmp_path)
    assert (done.status, said in done.err) == (1, True), done


def test_what_erofs_has_no_room_for_is_left_to_fuse(crfs: Crfs, tmp_path: Path) -> None:
    entries = [Dir("./"), File("large", b"l", xattrs={"user.large": b"v" * 65536}), File("a", b"a")]
    source = write_layout(tmp_path / "layout", FORMATS["gzip"](entries))
    root = crfs.mount(source, "--no-server")
    assert fstype(crfs, root) == "fuse.crfs"
    assert state(crfs)["passed_over"] == {"erofs": "an extended attribute is too long for EROFS"}
    assert (root / "a").read_bytes() == b"a"
    done = crfs.run("mount", source, crfs.new_directory(), "--engine", "erofs")
    assert done.err == "crfs: the engine erofs can't be used: an extended attribute is too long for EROFS\n"


def test_an_image_that_cannot_be_mounted_is_left_to_fuse(crfs: Crfs, image: str, tmp_path: Path) -> None:
    """No file on a tmpfs can, and here there is no loop device either."""
    cache, root = tmp_path / "cache", crfs.new_directory()
    cache.mkdir()
    script = f"""
        set -e
        mount --make-rprivate /
        mount -t tmpfs none {cache}
        mount --bind /dev/null {loopdevice.CONTROL}
        crfs() {{ {sys.executable} -P -m crfs.cli.main "$@"; }}
        crfs mount --no-server --cache {cache} {image} {root}
        findmnt -n -o FSTYPE {root}
        wc -c <{root}/a
        crfs umount {root}
        crfs mount --no-server --engine erofs --cache {cache} {image} {root}
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=crfs.environment,
        timeout=60,
    )
    assert done.stdout.split() == ["fuse.crfs", "5000"], done
    assert "the engine erofs can't be used: the EROFS image of the tree can't be mounted" in done.stderr


def test_should_refuse_in_a_user_namespace(crfs: Crfs, image: str) -> None:
    words = ("mount", image, crfs.new_directory(), "--engine", "erofs")
    done = subprocess.run(
        ["unshare", "-Urm", *COMMAND, *words],
        env=crfs.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "only root may mount EROFS" in done.stderr


class _Kernel:
    """What uname(2) says of a kernel of another release."""

    def __init__(self, release: str) -> None:
        self.release = release


@pytest.mark.parametrize(
    ("release", "said"),
    [("6.4.0-1", "it needs Linux 6.5, and this is 6.4.0-1"), ("6.11.2", "and there is no /dev/missing")],
)
def test_should_refuse_an_old_kernel(monkeypatch: pytest.MonkeyPatch, release: str, said: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: _Kernel(release))
    monkeypatch.setattr("crfs.mount.engines.erofsfs.CONTROL", "/dev/missing")
    with pytest.raises(MountError, match=said):
        choose("erofs", Wanted(None, (), True))


def test_a_loop_device_will_do(tmp_path: Path) -> None:
    if not os.path.exists(loopdevice.CONTROL):
        lacking("there are no loop devices")
    image = write(*tree_of(files([b"a", b"b/c"])), tmp_path / "image")
    with loopdevice.loop_device(image) as device, mounted(device, tmp_path / "mount") as root:
        seen = see(root)
    with mounted(image, tmp_path / "mount") as root:
        assert see(root) == seen
    assert "/image" not in subprocess.run(["losetup", "-l"], capture_output=True, text=True).stdout


def test_should_fail_for_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(8192))
    with pytest.raises(OSError):
        mount_image(tmp_path / "image", tmp_path)
