"""What the options of fuse-overlayfs do, tried with it and with crfs-overlayfs."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from crfs.fuse.session import DISK_WORKERS
from tests.support.dockerregistry import need_programs
from tests.support.mounting import mount_table, run_program, wait_until
from tests.t6_integrations.fuseoverlayfs import OURS, PROGRAMS, THEIRS, failed, mounted, same

DIRECTORIES = "lowerdir=low,upperdir=up,workdir=work"


def fill(place: Path) -> None:
    """A directory with a file of two names, and one that only root may read."""
    (place / "low/dir/sub").mkdir(parents=True)
    (place / "low/dir/file").write_text("below")
    os.link(place / "low/dir/file", place / "low/dir/link")
    (place / "low/secret").write_text("secret")
    (place / "low/secret").chmod(0o600)
    os.chown(place / "low/dir/file", 5, 6)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """For what is tried with one of them only, or one after the other."""
    for name in ("low", "up", "work"):
        (tmp_path / name).mkdir()
    fill(tmp_path)
    return tmp_path


def mount_options(at: Path, _: Path) -> frozenset[str]:
    (line,) = [line for line in mount_table() if line.at == at]
    return line.options


@pytest.mark.parametrize(
    "options",
    ["", "dev", "suid,dev", "nosuid", "noexec,nodev", "exec", "ro", "rw", "atime", "noatime", "allow_other"],
)
def test_mounted_with_the_same_flags(tmp_path: Path, options: str) -> None:
    assert "default_permissions" in same(tmp_path, options, fill, mount_options)


@pytest.mark.parametrize("options", ["max_write=65536", "context=c", "fast_ino=1,writeback=0"])
def test_accepted(place: Path, options: str) -> None:
    """What libfuse 2 does otherwise, or what there is nothing to see of."""
    with mounted(OURS, place, f"{DIRECTORIES},{options}") as at:
        assert (at / "dir/file").read_text() == "below"


@pytest.mark.parametrize(("options", "status"), [("", 0), ("allow_other", 0), ("allow_root", 1)])
def test_whom_it_lets_in(place: Path, options: str, status: int) -> None:
    """Of other users; fuse-overlayfs asks libfuse for both, and lets everybody in."""
    with mounted(OURS, place, f"{DIRECTORIES},{options}") as at:
        assert (at / "dir/file").read_text() == "below"
        # in a directory that this user has no way to
        done = subprocess.run(["cat", "dir/file"], cwd=at, user=1000, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (status, b"" if status else b"below")


def test_static_nlink(tmp_path: Path) -> None:
    def use(at: Path, _: Path) -> list[int]:
        (at / "new/sub").mkdir(parents=True)
        # fuse-overlayfs counts the names that it has seen
        assert len(os.listdir(at / "dir")) == 3
        return [(at / name).stat().st_nlink for name in ("", "dir", "dir/file", "new")]

    assert same(tmp_path, "static_nlink", fill, use) == [1, 1, 2, 1]


def test_directories_count_links_otherwise(place: Path) -> None:
    with mounted(OURS, place, DIRECTORIES) as at:
        (at / "new/sub").mkdir(parents=True)
        assert [(at / name).stat().st_nlink for name in ("dir/sub", "dir/file", "new")] == [2, 2, 3]


@pytest.mark.parametrize("options", ["squash_to_root", "squash_to_uid=7", "squash_to_gid=8,squash_to_uid=9"])
def test_squashed_owners_do_not_change(tmp_path: Path, options: str) -> None:
    def use(at: Path, place: Path) -> list[object]:
        os.chown(at / "dir/file", 33, 44)
        (at / "new").touch()
        os.chown(at / "new", 55, 66)
        return [_owner(path) for path in (at, at / "dir/file", at / "new", place / "up/new")]

    same(tmp_path, options, fill, use)


@pytest.mark.parametrize(
    ("options", "works"), [("squash_to_root", True), ("squash_to_gid=0", True), ("", False)]
)
def test_squashed_owners_may_be_impossible(tmp_path: Path, options: str, works: bool) -> None:
    """In a user namespace that has no id for the owner of a file that is written to."""
    script = '"$@" 2>/dev/null && chmod 700 merged/dir/file; status=$?; umount merged; exit $status'

    def use(name: str) -> bool:
        place = tmp_path / name
        for directory in ("low", "up", "work", "merged"):
            (place / directory).mkdir(parents=True)
        fill(place)
        os.chown(place / "low/dir/file", 0, 6)
        command = [*PROGRAMS[name], "-o", f"{DIRECTORIES},{options}", "merged"]
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", script, "sh", *command], cwd=place, timeout=60, check=False
        )
        return done.returncode == 0

    assert [use(name) for name in PROGRAMS] == [works, works]


@pytest.mark.parametrize("options", ["", "uidmapping=0:0:1,gidmapping=0:0:1", "squash_to_root", "userxattr"])
def test_in_a_user_namespace(tmp_path: Path, options: str) -> None:
    """Whiteouts and opaque directories, written by who has no right to trusted.* attributes."""
    script = """
        "$@" merged 2>/dev/null && cd merged || exit
        rm -r dir && mkdir dir new && mv new moved && echo changed >> secret && ln secret again && mkfifo fifo
        ! mv missing dir 2>/dev/null && rm again && mv secret dir/secret && ln -s x link && cd .. && umount merged
        "$@" merged 2>/dev/null && cd merged && find . -printf "%M %U %G %p %l\n" | sort && cat dir/secret
        cd .. && umount merged"""

    def use(name: str) -> str:
        place = tmp_path / name
        for directory in ("low", "up", "work", "merged"):
            (place / directory).mkdir(parents=True)
        fill(place)
        os.chown(place / "low/dir/file", 0, 0)
        command = [*PROGRAMS[name], "-o", f"{DIRECTORIES},{options}"]
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", script, "sh", *command],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    said = {name: use(name) for name in PROGRAMS}
    assert said[OURS] == said[THEIRS]
    assert said[OURS].splitlines()[-3:] == [
        "lrwxrwxrwx 0 0 ./link x",
        "prw-r--r-- 0 0 ./fifo ",
        "secretchanged",
    ]


def test_mapped_ids_both_ways(tmp_path: Path) -> None:
    def use(at: Path, place: Path) -> list[object]:
        os.chown(at / "secret", 1003, 1004)
        os.chown(at / "dir/sub", 7, 7)
        (at / "new").touch()
        os.chown(at / "new", 1001, -1)
        names = ("dir", "dir/file", "dir/sub", "new", "secret")
        return [_owner(top / name) for name in names for top in (at, place / "up") if (top / name).exists()]

    same(tmp_path, "uidmapping=0:1000:10,gidmapping=0:1000:10", fill, use)


def _in_namespace(script: str, at: Path) -> str:
    """What a script says in a user namespace with id 0 for 1000 and those from 1 on for 110000 and more."""
    become = "exec setpriv --reuid 0 --regid 0 --clear-groups sh -c"
    command = [
        "unshare",
        "-U",
        "--keep-caps",
        "--kill-child",
        "sh",
        "-c",
        f"echo; read go; {become} '{script}'",
    ]
    with subprocess.Popen(
        command, cwd=at, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 1000 1\n1 110000 65536\n")
        said, _ = process.communicate("go\n", timeout=30)
    return said


def test_mapped_for_a_user_namespace(tmp_path: Path) -> None:
    """As fuse-overlayfs's manual shows: what is root's on disk is root's there, and the other way round."""

    def use(at: Path, place: Path) -> list[object]:
        script = "stat -c %u:%g secret dir/file; touch mine; chown 5:6 mine; mkdir dir/sub/new; rm secret; ls"
        said = _in_namespace(script, at)
        return [said, *(_owner(place / "up" / name) for name in ("mine", "dir/sub/new"))]

    mapping = "0:1000:1:1:110000:65536"
    said = same(tmp_path, f"uidmapping={mapping},gidmapping={mapping}", fill, use)
    assert said == ["0:0\n5:6\ndir\nmine\n", (5, 6), (0, 0)]


def _owner(path: Path) -> tuple[int, int]:
    info = path.lstat()
    return info.st_uid, info.st_gid


def test_without_redirects_directories_of_lower_trees_stay(tmp_path: Path) -> None:
    def use(at: Path, _: Path) -> list[object]:
        (at / "new/sub").mkdir(parents=True)
        (at / "dir/new").mkdir()
        moves = ("dir", "dir/sub", "new", "dir/new")
        return [failed((at / name).rename, at / "moved" / name.replace("/", "-")) for name in moves]

    def fill_more(place: Path) -> None:
        fill(place)
        (place / "low/moved").mkdir()

    assert same(tmp_path, "redirect_dir=off", fill_more, use) == [errno.EXDEV, errno.EXDEV, None, None]


@pytest.mark.parametrize("options", ["timeout=0", "timeout=0.05", "timeout=1000", ""])
def test_how_long_the_kernel_believes(tmp_path: Path, options: str) -> None:
    """Attributes that change below, as long as nobody asks for anything else."""

    def use(at: Path, place: Path) -> str:
        (at / "new").write_text("short")
        assert (at / "new").stat().st_mode & 0o777 == 0o644
        os.chmod(place / "up/new", 0o600)
        if options == "timeout=0.05":
            wait_until(lambda: (at / "new").stat().st_mode & 0o777 == 0o600, 5)
        return f"{(at / 'new').stat().st_mode & 0o777:o}"

    assert same(tmp_path, options, fill, use) == ("600" if "timeout=0" in options else "644")


def test_without_xattrs(tmp_path: Path) -> None:
    def use(at: Path, _: Path) -> list[int | None]:
        path = at / "dir/file"
        return [
            failed(os.setxattr, path, "user.a", b""),
            failed(os.getxattr, path, "user.a"),
            failed(os.listxattr, path),
        ]

    assert same(tmp_path, "noxattrs=1", fill, use) == [errno.EOPNOTSUPP] * 3


@pytest.mark.parametrize("options", ["", "noxattrs=0"])
def test_marks_are_not_for_users(tmp_path: Path, options: str) -> None:
    names = ["trusted.overlay.opaque", "user.fuseoverlayfs.a", "user.containers.override_stat"]

    def use(at: Path, _: Path) -> list[object]:
        path = at / "dir/file"
        os.setxattr(path, "user.a", b"kept")
        return [
            os.listxattr(path),
            *(failed(os.setxattr, path, name, b"y") for name in names),
        ]

    assert same(tmp_path, options, fill, use) == [["user.a"], *[errno.EPERM] * 3]


@pytest.mark.parametrize(
    ("options", "reaches"), [("", True), ("fsync=1", True), ("fsync=0", False), ("volatile", False)]
)
def test_what_is_synced(tmp_path: Path, options: str, reaches: bool) -> None:
    """System calls of the daemon: for a file, for its data alone, and for a directory."""
    need_programs(["strace"])

    def use(name: str) -> list[str]:
        place = tmp_path / name
        for directory in ("low", "up", "work"):
            (place / directory).mkdir(parents=True)
        fill(place)
        trace = place / "trace"
        strace = ["strace", "-D", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
        with mounted(name, place, f"{DIRECTORIES},{options}", strace) as at:
            (at / "dir/new").touch()
            for path, flags in ((at / "dir/new", os.O_RDWR), (at / "dir", os.O_RDONLY)):
                fd = os.open(path, flags)
                os.fsync(fd)
                os.fdatasync(fd)
                os.close(fd)
        calls = re.findall(r"(fsync|fdatasync)\(\d+<([^>]*)>", trace.read_text())
        return sorted(f"{call} {os.path.relpath(path, place / 'up')}" for call, path in calls)

    wanted = [f"{call} {path}" for call in ("fdatasync", "fsync") for path in ("dir", "dir/new")]
    assert use(OURS) == (wanted if reaches else [])
    assert use(THEIRS) == (wanted if reaches else [])


@pytest.mark.parametrize(("options", "single"), [("threaded=0", True), ("threaded=1", False), ("", False)])
def test_threads(place: Path, options: str, single: bool) -> None:
    def threads() -> int:
        found = subprocess.run(["pgrep", "-f", f"{place}/merged"], capture_output=True, text=True, check=True)
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in found.stdout.split())

    with mounted(OURS, place, f"{DIRECTORIES},{options}") as at:
        (at / "dir/file").write_text("served")
        assert (threads() < DISK_WORKERS) == single, threads()


def test_what_nobody_knows(tmp_path: Path) -> None:
    """A warning from each; the mount is made."""
    for name in PROGRAMS:
        place = tmp_path / name
        for directory in ("low", "up", "work", "merged"):
            (place / directory).mkdir(parents=True)
        fill(place)
        command = [*PROGRAMS[name], "-o", f"{DIRECTORIES},bogus=1,strange", "merged"]
        with (place / "said").open("w") as said:
            subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, stderr=said, timeout=60, check=True)
        subprocess.run(["umount", place / "merged"], check=True)
        lines = (place / "said").read_text()
        assert "bogus=1" in lines
        assert "strange" in lines


def _numbers(at: Path) -> dict[str, int]:
    """Inode numbers below the root, as stat and directories show them; they have to agree."""
    found = {}
    for directory in (at, at / "dir"):
        for entry in os.scandir(directory):
            path = Path(entry.path)
            found[str(path.relative_to(at))] = entry.inode()
            assert path.lstat().st_ino == entry.inode(), path
    return found


@pytest.mark.parametrize("options", ["xino=off", "xino=off,ino32_t"])
def test_numbers_on_disk(tmp_path: Path, options: str) -> None:
    """Where all directories are on one file system; a copy keeps its number."""

    def use(at: Path, place: Path) -> list[bool]:
        before = _numbers(at)
        (at / "secret").write_text("changed")
        (at / "dir/file").rename(at / "dir/moved")
        (at / "new").touch()
        after = _numbers(at)
        low = {name: (place / "low" / name).lstat().st_ino & 0xFFFFFFFF for name in before}
        shown = {name: number & 0xFFFFFFFF for name, number in before.items()}
        new = (place / "up/new").lstat().st_ino == after["new"]
        return [
            shown == low,
            after["secret"] == before["secret"],
            after["dir/moved"] == before["dir/file"],
            new,
        ]

    assert same(tmp_path, options, fill, use) == [True] * 4


@pytest.mark.parametrize("options", ["", "xino=off", "xino=auto", "xino=on", "ino32_t"])
def test_numbers_over_several_file_systems(tmp_path: Path, options: str) -> None:
    """Nothing shares one, though they are the same on disk; with `xino` they are the same in the next mount."""
    lowers = [tmp_path / name for name in ("one", "two", "three")]
    try:
        for lower in lowers:
            lower.mkdir()
            run_program("mount", "-t", "tmpfs", "tmpfs", lower)
            (lower / "dir").mkdir()
            for number in range(50):
                (lower / f"{lower.name}{number}").touch()
                (lower / f"dir/{lower.name}{number}").touch()
        (tmp_path / "up").mkdir()
        (tmp_path / "work").mkdir()
        line = f"lowerdir={':'.join(map(str, lowers))},upperdir=up,workdir=work,{options}"
        found = []
        for _ in range(2):
            with mounted(OURS, tmp_path, line) as at:
                (at / "one1").chmod(0o600)
                (at / "dir/new").touch()
                found.append(_numbers(at))
    finally:
        for lower in lowers:
            run_program("umount", "-l", lower)
    assert len(set(found[0].values())) == len(found[0]) == 302
    assert max(found[0].values()) < (2**32 if options == "ino32_t" else 2**64)
    assert found[0] == found[1] or options in ("xino=off", "ino32_t")
