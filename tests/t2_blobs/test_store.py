"""The disk cache on real files: damage, full disks, missing permissions, several processes, kills."""

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.blobs.store import Store, open_store
from crfs.errors import CrfsError

DATA = random.Random(1).randbytes(200_000)
DIGEST = hashlib.sha256(DATA).digest()
DIFF_ID = f"sha256:{DIGEST.hex()}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


def chunk_file(root: Path, digest: bytes = DIGEST) -> Path:
    return root / "chunks" / digest.hex()[:2] / digest.hex()


def read(store: Store, start: int = 0, end: int = len(DATA)) -> bytes | None:
    return store.read_chunk(DIGEST, len(DATA), start, end)


def tree(root: Path) -> list[str]:
    """The files of the cache but for who uses it, and what is believed of it."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(file) for file in files if file.parts[0] not in ("sessions", "believed"))


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: the nearest thing to a full disk that needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "crfs-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("can't mount a tmpfs here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_chunk_comes_back(store: Store, tmp_path: Path) -> None:
    assert read(store) is None
    assert not store.has_chunk(DIGEST)
    store.store_chunk(DIGEST, DATA)
    assert store.has_chunk(DIGEST)
    assert read(store) == DATA
    assert read(store, 10, 20) == DATA[10:20]
    assert read(store, 5, 5) == b""
    assert tree(tmp_path) == [f"chunks/{DIGEST.hex()[:2]}/{DIGEST.hex()}"]


def test_chunk_survives_its_process(store: Store, tmp_path: Path) -> None:
    store.store_chunk(DIGEST, DATA)
    other = open_store(tmp_path)
    assert other.has_chunk(DIGEST)
    assert read(other, 100, 300) == DATA[100:300]


def test_nobody_else_can_look_into_the_cache(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    open_store(root).store_chunk(DIGEST, DATA)
    assert [path for path in root.rglob("*") if path.stat().st_mode & 0o077] == []


def test_stored_twice_is_written_once(store: Store, tmp_path: Path) -> None:
    store.store_chunk(DIGEST, DATA)
    before = chunk_file(tmp_path).stat().st_ino
    store.store_chunk(DIGEST, DATA)
    assert chunk_file(tmp_path).stat().st_ino == before


@pytest.mark.warns(r"chunks/\w\w/\w{64} does not match its name")
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer", "another"])
def test_damaged_chunk_is_dropped_and_stored_again(store: Store, tmp_path: Path, damage: str) -> None:
    store.store_chunk(DIGEST, DATA)
    path = chunk_file(tmp_path)
    content = {
        "flipped": DATA[:1000] + bytes([DATA[1000] ^ 1]) + DATA[1001:],
        "cut": DATA[:-1],
        "empty": b"",
        "longer": DATA + b"\0",
        "another": DATA[::-1],
    }
    path.write_bytes(content[damage])
    fresh = open_store(tmp_path)
    assert fresh.has_chunk(DIGEST)
    # not even bytes that are far from the damage
    assert read(fresh, 0, 10) is None
    assert not path.exists()
    assert not fresh.has_chunk(DIGEST)
    fresh.store_chunk(DIGEST, DATA)
    assert path.read_bytes() == DATA
    assert read(fresh) == DATA


@pytest.mark.warns("does not match its name")
def test_chunk_that_is_cut_after_it_was_read_is_stored_again(store: Store, tmp_path: Path) -> None:
    store.store_chunk(DIGEST, DATA)
    assert read(store) == DATA
    os.truncate(chunk_file(tmp_path), 1000)
    assert read(store, 500, 1500) is None
    store.store_chunk(DIGEST, DATA)
    assert read(store, 500, 1500) == DATA[500:1500]


def test_chunk_that_somebody_removed_is_stored_again(store: Store, tmp_path: Path) -> None:
    store.store_chunk(DIGEST, DATA)
    chunk_file(tmp_path).unlink()
    assert read(store) is None
    assert not store.has_chunk(DIGEST)
    store.store_chunk(DIGEST, DATA)
    assert read(store) == DATA


@pytest.mark.warns("does not match its name")
def test_size_that_nobody_has_asks_for_no_memory(store: Store, tmp_path: Path) -> None:
    store.store_chunk(DIGEST, DATA)
    assert open_store(tmp_path).read_chunk(DIGEST, 1 << 61, 0, 1 << 61) is None


@pytest.mark.warns("Is a directory")
def test_directory_in_a_chunks_place_is_no_chunk(store: Store, tmp_path: Path) -> None:
    chunk_file(tmp_path).mkdir(parents=True)
    assert store.read_chunk(DIGEST, chunk_file(tmp_path).stat().st_size, 0, 10) is None


def test_half_a_chunk_never_has_its_name(store: Store, tmp_path: Path) -> None:
    """Whoever reads while others write sees all of the chunk or none of it."""
    done = threading.Event()
    seen: list[bytes | None] = []

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.append(chunk_file(tmp_path).read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        store.store_chunk(DIGEST, DATA)
        chunk_file(tmp_path).unlink()
    done.set()
    reader.join()
    assert set(seen) <= {DATA}
    assert tree(tmp_path / "tmp") == []


_WRITER = """
import hashlib, sys
from pathlib import Path
from crfs.blobs.store import open_store

store = open_store(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(200):
    data = b"%d" % number * 5000
    digest = hashlib.sha256(data).digest()
    store.store_chunk(digest, data)
    assert store.read_chunk(digest, len(data), 0, len(data)) == data
for number in range(5):
    data = b"layer %d" % number * 100000
    with store.staged_layer() as staged:
        staged.write(data)
        store.publish_layer(staged, "sha256:" + hashlib.sha256(data).hexdigest())
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    assert [writer.communicate("go\n")[1] for writer in writers] == ["", ""]
    assert [writer.returncode for writer in writers] == [0, 0]
    files = [tmp_path / name for name in tree(tmp_path)]
    assert len(files) == 205
    for file in files:
        assert file.name.removeprefix("sha256-") == hashlib.sha256(file.read_bytes()).hexdigest()


_KILLED = """
import os, signal, sys
from pathlib import Path
from crfs.blobs.store import open_store

with open_store(Path(sys.argv[1])).staged_layer() as staged:
    staged.write(b"x" * 100000)
    staged.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(tree(tmp_path)) == 1
    store = open_store(tmp_path)
    assert tree(tmp_path) == []
    with store.staged_layer() as staged:
        mine = Path(staged.name)
        (tmp_path / "tmp" / "a-file-of-somebody").touch()
        (tmp_path / "tmp" / "1-of-init").touch()
        open_store(tmp_path)
        assert mine.exists()
    assert tree(tmp_path) == ["tmp/1-of-init", "tmp/a-file-of-somebody"]


@pytest.mark.warns("the cache .* takes no more")
def test_full_disk_is_said_once(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with file_limit(1000):
        for number in range(3):
            data = b"%d" % number * 2000
            digest = hashlib.sha256(data).digest()
            store.store_chunk(digest, data)
            assert store.read_chunk(digest, len(data), 0, 10) is None
        store.store_chunk(hashlib.sha256(b"small").digest(), b"small")
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache {tmp_path} takes no more: File too large"
    ]
    assert len(tree(tmp_path)) == 1
    store.store_chunk(DIGEST, DATA)
    assert read(store) == DATA


@pytest.mark.warns("takes no more: No space left on device")
def test_disk_without_space(tiny_disk: Path) -> None:
    store = open_store(tiny_disk)
    store.store_chunk(DIGEST, DATA)
    assert read(store) is None
    small = DATA[:20_000]
    store.store_chunk(hashlib.sha256(small).digest(), small)
    assert store.read_chunk(hashlib.sha256(small).digest(), len(small), 0, 10) == small[:10]
    assert tree(tiny_disk / "tmp") == []
    with pytest.raises(CrfsError, match=r"/disk can't take a whole layer: No space left on device$"):
        write_layer(store, DATA)
    store.close()
    assert tree(tiny_disk / "tmp") == tree(tiny_disk / "layers") == []


def write_layer(store: Store, data: bytes, diff_id: str = DIFF_ID) -> Path:
    with store.staged_layer() as staged:
        staged.write(data)
        return store.publish_layer(staged, diff_id)


def test_layer_comes_back(store: Store, tmp_path: Path) -> None:
    assert store.find_layer(DIFF_ID) is None
    path = write_layer(store, DATA)
    assert path.read_bytes() == DATA
    assert store.find_layer(DIFF_ID) == open_store(tmp_path).find_layer(DIFF_ID) == path
    assert tree(tmp_path / "tmp") == []


def test_layer_that_is_not_published_is_gone(store: Store, tmp_path: Path) -> None:
    with store.staged_layer() as staged:
        staged.write(DATA)
    with pytest.raises(ZeroDivisionError), store.staged_layer() as staged:
        staged.write(b"%d" % (1 // 0))
    assert tree(tmp_path) == []


def test_should_fail_layer_on_a_full_disk(store: Store, tmp_path: Path) -> None:
    with file_limit(1000), pytest.raises(CrfsError, match=f"^the cache {tmp_path} can't take a whole layer"):
        write_layer(store, DATA)
    assert tree(tmp_path) == []


@pytest.fixture
def readable() -> Iterator[Path]:
    """A cache that holds a chunk, and that others may read but not write to."""
    # pytest's own directories are closed to others
    root = Path(tempfile.mkdtemp(prefix="crfs-test-"))
    write_layer(open_store(root), DATA)
    open_store(root).store_chunk(DIGEST, DATA)
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(root)


@pytest.mark.warns("the cache .* takes no more: Permission denied")
def test_read_only_cache_is_read(readable: Path) -> None:
    with unprivileged():
        store = open_store(readable)
        assert read(store) == DATA
        assert store.find_layer(DIFF_ID) is not None
        store.store_chunk(bytes(32), b"wanted")
        assert store.read_chunk(bytes(32), 6, 0, 6) is None


def test_should_fail_layer_into_a_read_only_cache(readable: Path) -> None:
    with unprivileged(), pytest.raises(CrfsError, match=f"^the cache {readable} .*: Permission denied$"):
        write_layer(open_store(readable), DATA)


def test_should_fail_cache_where_nothing_may_be_made(readable: Path) -> None:
    inside = readable / "more"
    with unprivileged(), pytest.raises(CrfsError, match=f"^{inside}: .* can't be used: Permission denied$"):
        open_store(inside)


@pytest.mark.parametrize("part", ["", "chunks", "tmp"])
def test_should_fail_file_in_the_place_of_a_directory(tmp_path: Path, part: str) -> None:
    root = tmp_path / "cache"
    if part:
        root.mkdir()
    (root / part).write_bytes(b"")
    with pytest.raises(CrfsError, match=f"^{root}: the cache can't be used: (File exists|Not a directory)$"):
        open_store(root)
