"""What a bundle is made of: names in a root directory, accounts, and the command."""

import errno
from pathlib import Path

import pytest

from crfs.errors import NotFoundError, UsageError
from crfs.formats.manifest import ContainerConfig
from crfs.integrations.runtime.bundle import Wish, command_of
from crfs.integrations.runtime.rootfs import Bind, Rootfs
from crfs.integrations.runtime.users import Account, find_account

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
broken line
user:x:1000:1000::/home/user:/bin/sh
1001:x:7:8::/seven:/bin/sh
huge:x:99999999999:1::/:
nohome:x:5:6::
"""
GROUP = "root:x:0:\nuser:x:1000:\naudio:x:29:other,user\nvideo:x:44:user\nuser2:x:x:user\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text(PASSWD)
    (tmp_path / "root/etc/group").write_text(GROUP)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("wanted", "account"),
    [
        ("", Account(0, 0, (), "/root")),
        ("user", Account(1000, 1000, (29, 44), "/home/user")),
        ("1000", Account(1000, 1000, (29, 44), "/home/user")),
        ("user:audio", Account(1000, 29, (), "/home/user")),
        ("user:5", Account(1000, 5, (), "/home/user")),
        (":5", Account(0, 5, (), "/root")),
        ("1234", Account(1234, 0, (), "/")),
        ("1001", Account(7, 8, (), "/seven")),
        ("nohome", Account(5, 6, (), "/")),
    ],
)
def test_accounts(root: Path, wanted: str, account: Account) -> None:
    assert find_account(Rootfs(root), wanted) == account


@pytest.mark.parametrize("wanted", ["stranger", "user:strangers", "huge", "-1", "user:-1", "4294967295", "²"])
def test_should_fail_unknown_account(root: Path, wanted: str) -> None:
    with pytest.raises(NotFoundError, match="the image has no"):
        find_account(Rootfs(root), wanted)


def test_nobody_is_needed(tmp_path: Path) -> None:
    assert find_account(Rootfs(tmp_path), "") == Account(0, 0)
    assert find_account(Rootfs(tmp_path), "5:6") == Account(5, 6)


def test_links_stay_inside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("outside")
    (root / "etc/absolute").symlink_to("/etc/passwd")
    (root / "etc/relative").symlink_to("../../../../etc/group")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    rootfs = Rootfs(root)
    assert rootfs.outside("/etc/absolute") == f"{root}/etc/passwd"
    assert rootfs.outside("/etc/relative") == f"{root}/etc/group"
    assert rootfs.outside("/out/passwd") == f"{root}{tmp_path}/passwd"
    assert rootfs.outside("/../../x/.") == f"{root}/x"
    assert rootfs.read_lines("/loop") == []
    with pytest.raises(OSError) as caught:
        rootfs.outside("/loop/x")
    assert caught.value.errno == errno.ELOOP


def test_programs(root: Path, tmp_path: Path) -> None:
    for name in ("root/bin", "root/sbin", "volume"):
        (tmp_path / name).mkdir()
    for name, mode in (("root/bin/plain", 0o644), ("root/sbin/plain", 0o755), ("volume/bound", 0o755)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    rootfs = Rootfs(root, [Bind(str(tmp_path / "volume"), "/data/volume")])
    assert rootfs.find_program("plain", "/bin:/sbin", "/") == f"{root}/sbin/plain"
    assert rootfs.find_program("./bound", "/bin", "/data/volume") == f"{tmp_path}/volume/bound"
    assert rootfs.find_program("bound", "/bin:", "/data/volume") == f"{tmp_path}/volume/bound"
    for name, expected in (
        ("/bin/plain", PermissionError),
        ("bin", FileNotFoundError),
        ("/bin", PermissionError),
    ):
        with pytest.raises(expected):
            rootfs.find_program(name, "/bin:/sbin", "/")


def test_working_directories_are_made_inside(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to("/made")
    Rootfs(root).make_directories("/link/a/../b", -1, -1)
    assert (root / "made/a").is_dir()
    assert (root / "made/b").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


@pytest.mark.parametrize(
    ("wish", "command"),
    [
        (Wish(), "entry point cmd"),
        (Wish(("mine",)), "entry point mine"),
        (Wish(("mine",), ("other",)), "other mine"),
        (Wish((), ("other",)), "other"),
        (Wish(("mine",), ()), "mine"),
    ],
)
def test_commands(wish: Wish, command: str) -> None:
    config = ContainerConfig(entrypoint=("entry", "point"), cmd=("cmd",))
    assert " ".join(command_of(config, wish)) == command


def test_should_fail_without_a_command() -> None:
    with pytest.raises(UsageError, match="names no command"):
        command_of(ContainerConfig(cmd=("cmd",)), Wish(entrypoint=()))
