"""The cache within its limits: what goes first, what stays, several processes, and disks that others fill."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crfs.blobs.eviction import Keeper, Limits, evict, iter_entries
from crfs.blobs.objects import drop_old, open_objects
from crfs.blobs.store import Store, open_store

SIZE = 64 << 10


def chunk(number: int) -> tuple[bytes, bytes]:
    data = number.to_bytes(4, "big") * (SIZE // 4)
    return hashlib.sha256(data).digest(), data


def put(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.store_chunk(*chunk(number))


def here(store: Store, numbers: range) -> set[int]:
    return {number for number in numbers if os.path.exists(chunk_path(store, number))}


def chunk_path(store: Store, number: int) -> Path:
    name = chunk(number)[0].hex()
    return store.directory.root / "chunks" / name[:2] / name


def age(store: Store, number: int, seconds: int) -> None:
    os.utime(chunk_path(store, number), (seconds, seconds))


def taken(root: Path) -> int:
    return sum(entry.size for entry in iter_entries(root, "chunks"))


def test_longest_unused_goes_first(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, *range(10))
    for number in range(10):
        age(store, number, 1000 + number)
    fresh = open_store(tmp_path)
    digest, data = chunk(0)
    assert fresh.read_chunk(digest, SIZE, 0, 10) == data[:10]
    done = evict(store.directory, taken(tmp_path) * 4 // 10)
    assert here(store, range(10)) == {0, 7, 8, 9}
    assert (done.entries, done.left) == (6, taken(tmp_path))


def test_a_chunk_goes_with_its_other_name(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.objects = open_objects(store.directory)
    put(store, *range(3))
    assert list(iter_entries(tmp_path, "objects")) == []
    other = tmp_path / "objects" / chunk_path(store, 0).relative_to(tmp_path / "chunks")
    assert os.path.samefile(other, chunk_path(store, 0))
    with store.directory.staged() as staged:
        staged.write(b"file")
        store.publish_object(staged, f"ab/{'ab' * 32}.parts")
    assert [entry.name for entry in iter_entries(tmp_path, "objects")] == [f"objects/{'ab' * 32}.parts"]
    assert evict(store.directory, 0).entries == 4
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


def test_chunks_that_were_here_get_their_other_name_when_they_are_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, 0, 1)
    fresh = open_store(tmp_path)
    fresh.objects = open_objects(fresh.directory)
    digest, _ = chunk(0)
    assert fresh.read_chunk(digest, SIZE, 0, 10)
    assert [path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()] == [digest.hex()]


def test_what_was_written_to_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path)
    store.objects = open_objects(store.directory)
    assert store.objects is not None
    put(store, *range(4))
    with chunk_path(store, 2).open("r+b") as file:
        file.write(b"other")
    store.objects.drop_changed()
    names = {path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()}
    assert names == {chunk(number)[0].hex() for number in (0, 1, 3)}
    assert "changed by somebody" in caplog.text
    caplog.clear()


def test_nothing_of_an_earlier_boot_is_shared(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.objects = open_objects(store.directory)
    put(store, 0)
    store.directory.boot = "another"
    assert open_objects(store.directory) is not None
    assert list((tmp_path / "objects").iterdir()) == []
    drop_old(store.directory)
    assert [path.name for path in (tmp_path / "tmp").iterdir() if path.is_dir()] == []
    store.directory.boot = ""
    assert open_objects(store.directory) is None


def test_what_is_too_old_goes_whatever_the_size(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    put(store, *range(4))
    for number in range(4):
        age(store, number, 1000 * number)
    evict(store.directory, 1 << 40, older_ns=1500 * 10**9)
    assert here(store, range(4)) == {2, 3}


def test_size_is_kept_while_much_is_written(tmp_path: Path) -> None:
    limit = 20 * SIZE
    store = open_store(tmp_path, lambda root: Limits(limit, 0))
    for number in range(100):
        put(store, number)
        assert taken(tmp_path) <= limit * 1.2
    assert len(here(store, range(100))) >= 10
    for number in range(100):
        digest, data = chunk(number)
        assert store.read_chunk(digest, SIZE, 0, SIZE) in (None, data)


def test_layer_that_is_pinned_stays(tmp_path: Path) -> None:
    store, other = open_store(tmp_path), open_store(tmp_path)
    for writer, data in ((store, b"mine" * 20_000), (other, b"theirs" * 20_000)):
        with writer.staged_layer() as staged:
            staged.write(data)
            writer.publish_layer(staged, f"sha256:{hashlib.sha256(data).hexdigest()}")
    other.close()
    evict(store.directory, 0)
    (left,) = (tmp_path / "layers").iterdir()
    assert left.read_bytes() == b"mine" * 20_000
    store.close()
    evict(open_store(tmp_path).directory, 0)
    assert list((tmp_path / "layers").iterdir()) == []


def test_disk_that_is_full_of_others_files_is_left_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path, lambda root: Limits(1 << 40, 1 << 60))
    store._keeper = Keeper(store.directory, Limits(16 * SIZE, 1 << 60))
    put(store, *range(10))
    assert here(store, range(10)) == set()


_WRITER = """
import hashlib, sys
from pathlib import Path
from crfs.blobs.eviction import Limits
from crfs.blobs.objects import drop_old, open_objects
from crfs.blobs.store import open_store
store = open_store(Path(sys.argv[1]), lambda root: Limits(40 << 16, 0))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 120):
    data = number.to_bytes(4, "big") * (1 << 14)
    digest = hashlib.sha256(data).digest()
    store.store_chunk(digest, data)
    assert store.read_chunk(digest, 1 << 16, 0, 1 << 16) in (None, data)
store.close()
"""


def test_processes_keep_one_limit(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, tmp_path, str(start)], stderr=subprocess.PIPE, text=True
        )
        for start in (0, 60, 1000)
    ]
    assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
    assert taken(tmp_path) <= (40 << 16) * 1.2
    store = open_store(tmp_path)
    assert int((tmp_path / "usage").read_text()) == pytest.approx(taken(tmp_path), abs=20 << 16)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(store.directory.pinned()) == 0
