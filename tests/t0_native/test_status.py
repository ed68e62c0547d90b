"""What is told of a name is what os.stat tells."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from crfs._native.status import Status, are_hidden, find_changed, find_status, is_bare_directory, read_names

FIELDS = [name for name in dir(Status) if name.startswith("st_")]


def _make_all(tree: Path) -> None:
    (tree / "file").write_bytes(b"x" * 5000)
    os.utime(tree / "file", ns=(-1, 1_735_689_600_123_456_789))
    (tree / "empty").touch()
    (tree / "link").symlink_to("nowhere")
    os.link(tree / "file", tree / "other")
    os.mkfifo(tree / "fifo")
    (tree / "dir").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "socket"))


def test_all_fields_are_those_of_os_stat(tmp_path: Path) -> None:
    _make_all(tmp_path)
    directories = ((tmp_path, os.listdir(tmp_path)), (Path("/dev"), ["null"]))
    for directory, names in directories:
        fd = os.open(directory, os.O_PATH)
        try:
            for name in names:
                found = find_status(fd, os.fsencode(name))
                expected = os.stat(name, dir_fd=fd, follow_symlinks=False)
                assert [getattr(found, field) for field in FIELDS] == [
                    getattr(expected, field) for field in FIELDS
                ]
        finally:
            os.close(fd)


@pytest.mark.parametrize("path", [b"missing", b"file/below", b"link/below"])
def test_nothing_is_found_where_nothing_is(tmp_path: Path, path: bytes) -> None:
    _make_all(tmp_path)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert find_status(fd, path) is None
    finally:
        os.close(fd)


def test_should_fail_what_cannot_be_looked_for() -> None:
    with pytest.raises(OSError) as error:
        find_status(-1, b"name")
    assert error.value.errno == errno.EBADF


def test_changed_are_those_of_another_time(tmp_path: Path) -> None:
    _make_all(tmp_path)
    kept = 1_735_689_600_123_456_789
    expected = [
        os.fsencode(entry.name)
        for entry in os.scandir(tmp_path)
        if not entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime_ns != kept
    ]
    directory = os.open(tmp_path, os.O_RDONLY)
    # twice: the descriptor is where it was
    found = [sorted(find_changed(directory, kept)) for _ in range(2)]
    os.close(directory)
    assert found == [sorted(expected)] * 2
    assert b"file" not in expected
    assert b"empty" in expected


def test_should_fail_to_look_for_changes_in_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        find_changed(file, 0)
    os.close(file)


def test_all_names_are_read_with_their_types(tmp_path: Path) -> None:
    _make_all(tmp_path)
    directory = os.open(tmp_path, os.O_PATH)
    found = [sorted(read_names(directory)) for _ in range(2)]
    os.close(directory)
    expected = [(entry, os.lstat(tmp_path / entry)) for entry in sorted(os.listdir(tmp_path))]
    assert (
        found
        == [[(os.fsencode(name), info.st_ino, stat.S_IFMT(info.st_mode), False) for name, info in expected]]
        * 2
    )
    devices = os.open("/dev", os.O_PATH)
    assert (b"null", stat.S_IFCHR, False) in {
        (name, mode, gone) for name, _, mode, gone in read_names(devices)
    }
    os.close(devices)
    with pytest.raises(OSError):
        read_names(-1)


def test_a_directory_is_bare_without_attributes_and_a_name(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    directory = os.open(tmp_path, os.O_PATH)
    told = [is_bare_directory(directory, b"dir", b"mark"), is_bare_directory(directory, b"missing", b"mark")]
    (tmp_path / "dir" / "mark").touch()
    told += [is_bare_directory(directory, b"dir", b"mark"), is_bare_directory(directory, b"dir", b"other")]
    os.setxattr(tmp_path / "dir", "user.name", b"value")
    told.append(is_bare_directory(directory, b"dir", b"other"))
    os.close(directory)
    assert told == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("upper", "shown"), [({"a", "b"}, False), ({"a"}, True), ({"a", "b", "new/"}, True), (set(), True)]
)
def test_a_directory_is_hidden_by_a_whiteout_of_each_name(
    tmp_path: Path, upper: set[str], shown: bool
) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / "lower" / name).touch()
    for name in upper:
        if name.endswith("/"):
            (tmp_path / "upper" / name).mkdir()
        else:
            os.mknod(tmp_path / "upper" / name, stat.S_IFCHR, os.makedev(0, 0))
    above, directory = os.open(tmp_path, os.O_PATH), os.open(tmp_path / "upper", os.O_PATH)
    told = are_hidden(above, b"lower", directory), are_hidden(above, b"missing", directory)
    os.close(above)
    os.close(directory)
    assert told == (not shown, False)
