"""Nothing can be changed, and what a user may not see he doesn't."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.dockerregistry import need_root
from tests.support.layers import Dir, Entry, File, Symlink
from tests.support.mounting import crfs_in, run_program
from tests.t6_mount.images import estargz_layer, push

NOBODY = 65534
SOMEONE = 1234
ENTRIES: list[Entry] = [
    Dir("./"),
    Dir("dir"),
    File("dir/file", b"file"),
    File("file", b"content", xattrs={"user.a": b"1"}),
    Symlink("link", "file"),
    Dir("closed", mode=0o700),
    File("closed/file", b"secret"),
    Dir("listed", mode=0o744),
    File("listed/file", b"secret"),
    Dir("passable", mode=0o711),
    File("passable/file", b"for all"),
    Dir("tmp", mode=0o1777),
    File("roots", b"secret", mode=0o600),
    File("someones", b"secret", uid=SOMEONE, mode=0o400),
    File("groups", b"for the group", gid=SOMEONE, mode=0o640),
    File("program", b"#!/bin/sh\necho ran\n", mode=0o755),
    File("roots-program", b"#!/bin/sh\necho ran\n", mode=0o744),
]


@pytest.fixture(scope="module")
def root(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with crfs_in(tmp_path_factory.mktemp("readonly") / "crfs") as crfs:
        yield crfs.mount(push(registry.address, "readonly", estargz_layer(ENTRIES)))


def opening(name: str, flags: int) -> Callable[[Path], object]:
    return lambda root: os.open(root / name, flags)


WRITES: dict[str, Callable[[Path], object]] = {
    "create": opening("new", os.O_WRONLY | os.O_CREAT),
    "create-in-open-directory": opening("tmp/new", os.O_WRONLY | os.O_CREAT),
    "write": opening("file", os.O_WRONLY),
    "read-and-write": opening("file", os.O_RDWR),
    "append": opening("file", os.O_WRONLY | os.O_APPEND),
    "truncate-on-open": opening("file", os.O_RDONLY | os.O_TRUNC),
    "unnamed": opening("tmp", os.O_RDWR | os.O_TMPFILE),
    "truncate": lambda root: os.truncate(root / "file", 1),
    "mkdir": lambda root: (root / "new").mkdir(),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "symlink": lambda root: os.symlink("x", root / "new"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "rename-over": lambda root: os.rename(root / "file", root / "roots"),
    "unlink": lambda root: os.unlink(root / "file"),
    "rmdir": lambda root: os.rmdir(root / "tmp"),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chown": lambda root: os.chown(root / "file", 0, 0),
    "utime": lambda root: os.utime(root / "file", (0, 0)),
    "utime-of-link": lambda root: os.utime(root / "link", (0, 0), follow_symlinks=False),
    "setxattr": lambda root: os.setxattr(root / "file", "user.b", b"2"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.a"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_should_fail_write(root: Path, write: Callable[[Path], object]) -> None:
    with pytest.raises(OSError) as caught:
        write(root)
    assert caught.value.errno == errno.EROFS


def test_nothing_has_changed(root: Path) -> None:
    assert set(os.listdir(root)) == {entry.name.partition("/")[0] for entry in ENTRIES[1:]}
    assert (root / "file").read_bytes() == b"content"


def test_access_says_what_can_be_done(root: Path) -> None:
    assert os.access(root / "file", os.R_OK)
    assert not os.access(root / "file", os.W_OK)
    assert not os.access(root / "file", os.X_OK)
    assert os.access(root / "program", os.X_OK)


def as_user(user: int, command: str, root: Path) -> str:
    """What a command says as that user, below the root; the way there need not be passable for him."""
    need_root()
    return run_program("sh", "-c", command, cwd=root, user=user).decode()


@pytest.mark.parametrize(
    ("user", "command", "said"),
    [
        (NOBODY, "cat file dir/file passable/file", "contentfilefor all"),
        (NOBODY, "ls listed", "file\n"),
        (NOBODY, "./program", "ran\n"),
        (SOMEONE, "cat someones groups", "secretfor the group"),
    ],
)
def test_user_may(root: Path, user: int, command: str, said: str) -> None:
    assert as_user(user, command, root) == said


@pytest.mark.parametrize(
    ("user", "command"),
    [
        (NOBODY, "cat closed/file"),
        (NOBODY, "ls closed"),
        (NOBODY, "cat listed/file"),
        (NOBODY, "ls passable"),
        (NOBODY, "cat roots"),
        (NOBODY, "cat someones"),
        (NOBODY, "cat groups"),
        (NOBODY, "./roots-program"),
        (SOMEONE, "cat roots"),
    ],
)
def test_should_fail_what_a_user_may_not(root: Path, user: int, command: str) -> None:
    need_root()
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=root,
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert not done.stdout
    assert "Permission denied" in done.stderr
