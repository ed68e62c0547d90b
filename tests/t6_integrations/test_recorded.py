"""`xattr_permissions`: owner, mode and type in an xattr, of which fuse-overlayfs reads ours and we read its."""

import os
import socket
import stat
from pathlib import Path

import pytest

from crfs.formats.overridestat import XATTR, OverrideStat, XattrPermissions, format_override, parse_override
from tests.support.mounting import run_program
from tests.t6_integrations.fuseoverlayfs import OURS, THEIRS, mounted, same

DIRECTORIES = "lowerdir=low,upperdir=up,workdir=work"
PRIVILEGED = b"security.fuseoverlayfs.override_stat"
CONTAINERS = b"user.containers.override_stat"
USER = b"user.fuseoverlayfs.override_stat"
Shown = dict[str, tuple[str, int, int, int]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("low/dir", "up", "work"):
        (tmp_path / name).mkdir(parents=True)
    fill(tmp_path)
    return tmp_path


def fill(place: Path) -> None:
    (place / "low/dir").mkdir(exist_ok=True)
    (place / "low/file").write_text("below")
    (place / "low/file").chmod(0o2711)
    os.chown(place / "low/file", 5, 6)


def shown(at: Path, *names: str) -> Shown:
    """Mode, owner and device of some names."""
    found = {name: (at / name).lstat() for name in names}
    return {
        name: (stat.filemode(info.st_mode), info.st_uid, info.st_gid, info.st_rdev)
        for name, info in found.items()
    }


def make_files(at: Path) -> None:
    """What fuse-overlayfs can record: files and directories, new and copied up."""
    (at / "new").touch()
    os.chown(at / "new", 7, 8)
    (at / "new").chmod(0o4711)
    (at / "newdir").mkdir()
    (at / "newdir").chmod(0o1777)
    (at / "newdir").rename(at / "moved")
    (at / "file").write_text("changed")
    (at / "file").chmod(0o640)
    (at / "dir").chmod(0o2700)
    os.chown(at / "dir", 9, 10)


NAMES = ("new", "moved", "dir")


@pytest.mark.parametrize("permissions", [1, 2])
def test_as_fuse_overlayfs_shows(tmp_path: Path, permissions: int) -> None:
    def use(at: Path, place: Path) -> list[Shown]:
        make_files(at)
        # after a chmod fuse-overlayfs shows the owner on disk
        os.chown(at / "new", 7, 8)
        return [shown(at, *NAMES), shown(place / "up", *NAMES)]

    on_top, on_disk = same(tmp_path, f"xattr_permissions={permissions}", fill, use)
    assert on_top["new"] == ("-rwx--x--x", 7, 8, 0)
    assert set(on_disk.values()) == {("-rwxr-xr-x", 0, 0, 0), ("drwxr-xr-x", 0, 0, 0)}


@pytest.mark.parametrize("permissions", [1, 2])
@pytest.mark.parametrize("again", [False, True])
def test_upper_of_fuse_overlayfs(place: Path, permissions: int, again: bool) -> None:
    """Read, and written to as it is: fuse-overlayfs goes on with it. With or without the option."""
    options = f"{DIRECTORIES},xattr_permissions={permissions}"
    with mounted(THEIRS, place, options) as at:
        make_files(at)
        wanted = shown(at, *NAMES)
    # which one depends on its version
    (name,) = (name for name in os.listxattr(place / "up/new") if name.endswith("override_stat"))
    with mounted(OURS, place, options if again else DIRECTORIES) as at:
        assert shown(at, *NAMES) == wanted
        (at / "ours").touch()
        (at / "ours").chmod(0o604)
        os.chown(at / "dir", 11, -1)
        wanted = shown(at, *NAMES, "ours")
    assert parse_override(os.getxattr(place / "up/ours", name)).mode == 0o100604
    with mounted(THEIRS, place, options) as at:
        assert shown(at, *NAMES, "ours") == wanted
    assert wanted["dir"] == ("drwx--S---", 11, 10, 0)


@pytest.mark.parametrize(("permissions", "name"), [(1, PRIVILEGED), (2, CONTAINERS)])
def test_ours_is_read_by_fuse_overlayfs(place: Path, permissions: int, name: bytes) -> None:
    """As an upper directory, and as a lower one."""
    with mounted(OURS, place, f"{DIRECTORIES},xattr_permissions={permissions}") as at:
        make_files(at)
        wanted = shown(at, *NAMES, "file")
    assert parse_override(os.getxattr(place / "up/new", name)) == OverrideStat(7, 8, 0o104711)
    for options in (DIRECTORIES, "lowerdir=up:low"):
        for program in (THEIRS, OURS):
            with mounted(program, place, options) as at:
                assert shown(at, *NAMES, "file") == wanted, (program, options)


@pytest.mark.parametrize("permissions", [1, 2])
def test_all_types_come_back(place: Path, permissions: int) -> None:
    """Of what fuse-overlayfs does not record: on disk there are regular files and symbolic links alone."""
    os.mknod(place / "low/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (place / "low/null").chmod(0o666)
    os.mkfifo(place / "low/pipe", 0o600)
    options = f"{DIRECTORIES},xattr_permissions={permissions},dev"
    with mounted(OURS, place, options) as at:
        os.mknod(at / "zero", stat.S_IFCHR | 0o640, os.makedev(1, 5))
        os.mknod(at / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 200))
        os.mkfifo(at / "fifo", 0o622)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(at / "socket"))
        (at / "link").symlink_to("nowhere")
        os.chown(at / "null", 3, 4)
        os.chown(at / "pipe", 3, 4)
        os.link(at / "fifo", at / "again")
        (at / "fifo").rename(at / "moved")
        names = ("zero", "disk", "moved", "again", "socket", "link", "null", "pipe")
        wanted = shown(at, *names)
        assert (at / "zero").open("rb").read(3) == b"\0\0\0"
    kinds = [stat.filemode(path.lstat().st_mode)[0] for path in (place / "up").iterdir()]
    assert set(kinds) == {"-", "l"}
    assert [mode[0] for mode, *_ in wanted.values()] == list("cbppslcp")
    assert wanted["null"] == ("crw-rw-rw-", 3, 4, os.makedev(1, 3))
    with mounted(OURS, place, options) as at:
        assert shown(at, *names) == wanted
        found = run_program("find", at, "-type", "p", "-printf", "%P\n").split()
        assert set(found) == {b"moved", b"again", b"pipe"}
    with mounted(OURS, place, "lowerdir=up:low") as at:
        assert shown(at, *names) == wanted


@pytest.mark.parametrize("permissions", [1, 2])
def test_records_are_not_shown(place: Path, permissions: int) -> None:
    with mounted(OURS, place, f"{DIRECTORIES},xattr_permissions={permissions}") as at:
        make_files(at)
        for path in (at, *at.iterdir()):
            assert os.listxattr(path) == []
            for name in (PRIVILEGED, CONTAINERS, USER):
                with pytest.raises(OSError, match="No data"):
                    os.getxattr(path, name)


def test_root_takes_over_what_a_lower_directory_has_recorded(place: Path) -> None:
    record = format_override(OverrideStat(21, 22, stat.S_IFDIR | 0o751))
    os.setxattr(place / "low", CONTAINERS, record)
    with mounted(OURS, place, f"{DIRECTORIES},xattr_permissions=2") as at:
        assert shown(at, "")[""] == ("drwxr-x--x", 21, 22, 0)
    assert os.getxattr(place / "up", CONTAINERS) == record


def test_lower_directory_of_podman(place: Path) -> None:
    """With `force_mask` containers/storage extracts layers so."""
    records = {
        "": b"0:0:0755:dir",
        "dir": b"7:8:2770:dir",
        "file": b"9:10:4711:file",
        "null": b"1:2:0666:char-1-3",
    }
    (place / "low/null").touch()
    for name, record in records.items():
        os.setxattr(place / "low" / name, XATTR[XattrPermissions.USER], record)
    with mounted(OURS, place, DIRECTORIES) as at:
        assert shown(at, "dir", "file", "null") == {
            "dir": ("drwxrws---", 7, 8, 0),
            "file": ("-rws--x--x", 9, 10, 0),
            "null": ("crw-rw-rw-", 1, 2, os.makedev(1, 3)),
        }
        (at / "file").chmod(0o644)
        os.chown(at / "null", 5, -1)
    assert shown(place / "up", "file", "null") == {
        "file": ("-rw-r--r--", 9, 10, 0),
        "null": ("crw-rw-rw-", 5, 2, os.makedev(1, 3)),
    }


def test_should_fail_record_that_is_none(place: Path) -> None:
    os.setxattr(place / "low", CONTAINERS, b"0:0:0755:dir")
    os.setxattr(place / "low/file", CONTAINERS, b"nonsense")
    with mounted(OURS, place, DIRECTORIES) as at:
        with pytest.raises(OSError, match="Invalid argument"):
            (at / "file").stat()
        assert sorted(os.listdir(at)) == ["dir", "file"]
