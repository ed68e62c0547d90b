"""The instruments of this floor measure what they say: the comparison of trees, and the counting link."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benches.link import link
from tests.support.compare import compare_trees
from tests.support.dockerregistry import need_root

SECOND = 10**9


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    tree = tmp_path / "oracle"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir/file").write_bytes(b"content")
    (tree / "dir/other").write_bytes(b"content")
    os.link(tree / "dir/file", tree / "linked")
    (tree / "symlink").symlink_to("dir/file")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "dir", "user.of", b"dir")
    return tree


@pytest.fixture
def mount(oracle: Path, tmp_path: Path) -> Path:
    """A faithful copy."""
    need_root()
    copy = tmp_path / "mount"
    shutil.copytree(oracle, copy, symlinks=True, ignore=shutil.ignore_patterns("fifo", "linked"))
    os.mkfifo(copy / "fifo")
    os.link(copy / "dir/file", copy / "linked")
    for directory, names, files in os.walk(oracle):
        for name in [".", *names, *files]:
            original = Path(directory, name)
            shutil.copystat(original, copy / original.relative_to(oracle), follow_symlinks=False)
    return copy


def test_equal_trees_have_no_difference(mount: Path, oracle: Path) -> None:
    assert compare_trees(mount, oracle) == []


def _touch(path: Path, ns: int) -> None:
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def _keeping_time(path: Path, change: Callable[[Path], object]) -> None:
    before = path.parent.lstat().st_mtime_ns, path.lstat().st_mtime_ns
    change(path)
    if os.path.lexists(path):
        _touch(path, before[1])
    _touch(path.parent, before[0])


def _retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("dir/fil_")


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    [
        ("dir/other", lambda path: path.unlink(), ["b'dir/other' is only in the oracle"]),
        ("new", lambda path: path.parent.joinpath("new").touch(), ["b'new' is only in the mount"]),
        ("dir/other", lambda path: path.chmod(0o4644), ["b'dir/other' mode: 4644"]),
        ("dir/other", lambda path: os.chown(path, 1, 2), ["b'dir/other' uid: 1", "b'dir/other' gid: 2"]),
        ("dir/other", lambda path: path.write_bytes(b"c0ntent"), ["b'dir/other' content: "]),
        ("dir/other", lambda path: os.setxattr(path, "user.x", b""), ["b'dir/other' xattr user.x: b''"]),
        ("dir", lambda path: os.removexattr(path, "user.of"), ["b'dir' xattr user.of: None"]),
        ("symlink", _retarget, ["b'symlink' content: b'dir/fil_'"]),
    ],
)
def test_each_difference_is_seen(
    name: str, change: Callable[[Path], object], seen: list[str], mount: Path, oracle: Path
) -> None:
    if name == "new":
        before = mount.lstat().st_mtime_ns
        change(mount / name)
        _touch(mount, before)
    else:
        _keeping_time(mount / name, change)
    found = compare_trees(mount, oracle)
    assert len(found) == len(seen)
    assert all(line.startswith(start) for line, start in zip(found, seen, strict=True)), found


def test_type_and_hard_links_are_seen(mount: Path, oracle: Path) -> None:
    for name in ("fifo", "linked"):
        (mount / name).unlink()
        (mount / name).touch()
    found = "\n".join(compare_trees(mount, oracle))
    assert "b'fifo' type: -, the oracle has p" in found
    assert "hard links: b'dir/file', b'linked' share no inode in the mount" in found
    assert "b'linked' nlink: 1, the oracle has 2" in found


def test_times_are_seen_to_the_nanosecond_or_rounded(mount: Path, oracle: Path) -> None:
    _touch(oracle / "dir/other", 10 * SECOND + SECOND // 2)
    assert compare_trees(mount, oracle, untimed=[b"dir/other"]) == []
    for tree in (mount, oracle):
        for path in [tree, *tree.rglob("*")]:
            _touch(path, 10 * SECOND)
    _touch(oracle / "dir/other", 10 * SECOND + SECOND // 2)
    _touch(mount / "dir/other", 11 * SECOND)
    assert len(compare_trees(mount, oracle)) == 1
    assert compare_trees(mount, oracle, mtime_seconds=True) == []
    _touch(mount / "dir/other", 10 * SECOND)
    assert len(compare_trees(mount, oracle, mtime_seconds=True)) == 1


def _serve_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_link_counts_requests_and_bytes() -> None:
    answer = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 500000\r\n\r\n" + bytes(500000)
    request = b"GET /v2/x/blobs/y HTTP/1.1\r\nHost: h\r\nRange: bytes=0-9\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_serve_once, args=(listener, answer), daemon=True)
        server.start()
        with link(listener.getsockname()[1]) as counted:
            with socket.create_connection(("127.0.0.1", counted.port)) as client:
                client.sendall(request)
                received = b"".join(iter(lambda: client.recv(65536), b""))
            counts, rest = counted.take(), counted.take()
        server.join()
    assert received == answer
    assert (counts.bytes_up, counts.bytes_down) == (len(request), len(answer))
    assert counts.requests == ["GET /v2/x/blobs/y bytes=0-9"]
    assert (rest.bytes_down, rest.requests) == (0, [])
