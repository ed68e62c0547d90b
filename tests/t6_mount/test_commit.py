"""`crfs commit`: the image that comes of it shows what the mount showed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crfs.registry.server import Registry
from tests.support.compare import compare_trees
from tests.support.faults import FaultProxy
from tests.support.layers import Dir, File, Hardlink, Symlink
from tests.support.mounting import Crfs
from tests.support.rawregistry import Client
from tests.t6_mount.images import estargz_layer, push

LAYER = [
    Dir("dir", mode=0o751),
    Dir("dir/sub"),
    File("dir/file", b"lower" * 1000, mode=0o640, mtime_ns=1_600_000_000 * 10**9),
    File("dir/sub/deep", b"deep"),
    File("dir/gone", b"gone"),
    Dir("emptied"),
    File("emptied/x", b"x"),
    Dir("moved"),
    Dir("moved/inner"),
    File("moved/inner/a", b"a" * 5000),
    File("moved/b", b"b"),
    File("moved/c", b"c"),
    File("linked", b"linked"),
    Hardlink("other", "linked"),
    Symlink("link", "dir/file"),
    File("renamed", b"renamed"),
]


@pytest.fixture
def base(registry: Registry) -> str:
    """An image in the registry, as base:v1."""
    push(registry.address, "base", estargz_layer(LAYER))
    return f"{registry.address}/base:v1"


def change(root: Path) -> None:
    """All that can be done to a tree."""
    (root / "dir/file").write_bytes(b"upper")
    (root / "dir/gone").unlink()
    (root / "emptied/x").unlink()
    (root / "emptied").rmdir()
    (root / "emptied").mkdir(mode=0o700)
    (root / "emptied/y").write_bytes(b"y")
    (root / "moved/c").unlink()
    (root / "moved/d").write_bytes(b"d")
    (root / "moved").rename(root / "dir/sub/here")
    (root / "dir/sub/here/inner").rename(root / "dir/sub/here/outer")
    (root / "linked").write_bytes(b"both names")
    (root / "renamed").rename(root / "new name")
    (root / "link").unlink()
    (root / "link").symlink_to("/elsewhere")
    (root / "dir").chmod(0o1777)
    new = root / "new"
    new.mkdir()
    (new / "file").write_bytes(os.urandom(100_000))
    os.link(new / "file", new / "hard")
    os.mkfifo(new / "fifo")
    os.mknod(new / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(new / "file", "user.k", b"\0v")
    os.utime(new / "file", ns=(0, 1_700_000_000_123_456_789))
    os.chown(new / "hard", 7, 8)
    root.chmod(0o711)
    os.setxattr(root, "user.root", b"its own")
    os.utime(root, ns=(0, 1_600_000_000_123_456_789))


Mounted = Callable[..., tuple[Path, Path]]


@pytest.fixture
def writable(crfs: Crfs, tmp_path: Path) -> Mounted:
    """Mounts writably: the mountpoint and its upper directory."""

    def mount(source: str, *options: str) -> tuple[Path, Path]:
        upper, work = tmp_path / "upper", tmp_path / "work"
        upper.mkdir()
        work.mkdir()
        return crfs.mount(source, "--upper", upper, "--work", work, *options), upper

    return mount


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("estargz", "fuse"),
        ("zstd:chunked", "fuse"),
        ("gzip", "fuse"),
        ("estargz", "overlay"),
        ("estargz", "erofs"),
    ],
)
def test_shows_what_was_mounted(
    crfs: Crfs, registry: Registry, base: str, writable: Mounted, name: str, engine: str
) -> None:
    root, upper = writable(f"docker://{base}", "--engine", engine)
    change(root)
    os.setxattr(upper / "new", "trusted.overlay.opaque", b"y")
    target = f"docker://{registry.address}/{name.replace(':', '')}:v1"
    done = crfs.run("commit", root, target, "--format", name)
    assert done.status == 0, done.err
    made = crfs.mount(target)
    found = compare_trees(made, root)
    # nobody counts what is in a merged directory; the kernel still counts a name that has a file of its own now
    uncounted = "the oracle has 1" if engine == "fuse" else " nlink: "
    assert [line for line in found if uncounted not in line] == []
    crfs.umount(made)
    crfs.umount(root)


def test_reads_nothing_below(
    crfs: Crfs, registry: Registry, base: str, writable: Mounted, tmp_path: Path
) -> None:
    """The registry takes the lower layers out of the other repository; only manifest and config are read."""
    push(registry.address, "far", estargz_layer(LAYER))
    with FaultProxy(f"http://{registry.address}") as proxy:
        root, _ = writable(f"docker://{proxy.host}/far:v1")
        (root / "new").write_bytes(b"new")
        (root / "dir/gone").unlink()
        proxy.use()
        done = crfs.run(
            *("commit", root, f"docker://{proxy.host}/top:v1", "--json"),
            *("--author", "A <a@b>", "--message", "why", "-c", 'CMD ["x", "y z"]', "-c", "ENV A=b C='d e'"),
            *("--change", "WORKDIR /w", "-c", "LABEL k=v", "-c", "EXPOSE 80", "-c", "USER 5:6"),
        )
        assert done.status == 0, done.err
        report = json.loads(done.out)
        assert [layer["how"] for layer in report["images"][0]["layers"]] == ["mounted", "converted"]
        config_only = proxy.seen("GET", "/far/blobs/")
        assert len(config_only) == 1
        assert not proxy.seen("PATCH", "")
    client = Client(registry.address)
    manifest = json.loads(client.ask("GET", "/v2/top/manifests/v1").body)
    config = json.loads(client.ask("GET", f"/v2/top/blobs/{manifest['config']['digest']}").body)
    assert config["author"] == "A <a@b>"
    assert config["history"][-1]["comment"] == "why"
    assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == 2
    assert config["config"] == {
        "Cmd": ["x", "y z"],
        "Env": ["A=b", "C=d e"],
        "WorkingDir": "/w",
        "Labels": {"k": "v"},
        "ExposedPorts": {"80/tcp": {}},
        "User": "5:6",
    }
    crfs.umount(root)


def test_upper_directory_that_is_not_mounted(
    crfs: Crfs, registry: Registry, base: str, writable: Mounted, tmp_path: Path
) -> None:
    root, upper = writable(f"docker://{base}")
    (root / "dir/file").write_bytes(b"upper")
    (root / "dir/gone").unlink()
    crfs.umount(root)
    done = crfs.run("commit", upper, f"oci:{tmp_path}/l:v1")
    assert (done.status, done.out) == (2, "")
    assert "--base" in done.err
    done = crfs.run("commit", upper, f"oci:{tmp_path}/l:v1", "--base", f"docker://{base}")
    assert done.status == 0, done.err
    made = crfs.mount(f"oci:{tmp_path}/l:v1")
    assert (made / "dir/file").read_bytes() == b"upper"
    assert not (made / "dir/gone").exists()
    crfs.umount(made)


def test_should_fail_moved_directory_without_a_mount(
    crfs: Crfs, base: str, writable: Mounted, tmp_path: Path
) -> None:
    root, upper = writable(f"docker://{base}")
    (root / "moved").rename(root / "elsewhere")
    crfs.umount(root)
    done = crfs.run("commit", upper, f"oci:{tmp_path}/l:v1", "--base", f"docker://{base}")
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "elsewhere" in done.err
    assert not (tmp_path / "l/index.json").exists()


def test_should_fail_what_is_no_writable_mount(crfs: Crfs, base: str, tmp_path: Path) -> None:
    root = crfs.mount(f"docker://{base}")
    cases: list[tuple[list[str | Path], str]] = [
        ([root, "oci:x:v1"], "read-only"),
        ([tmp_path, "oci:x:v1"], "--base"),
        ([tmp_path / "none", "oci:x:v1"], "none"),
        ([root, "oci:x:v1", "--change", "RUN x"], "RUN x"),
        ([root, "oci:x:v1", "--change", "EXPOSE x"], "no port"),
    ]
    for words, told in cases:
        done = crfs.run("commit", *words)
        assert done.status in (1, 2)
        assert done.err.count("\n") == 1
        assert told in done.err
    crfs.umount(root)
