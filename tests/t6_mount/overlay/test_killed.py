"""A daemon that is killed in the middle of its work: what was done stays, the rest is as it was, and no file is
half of something, whoever mounts the upper directory next.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fsops import (
    Chmod,
    Failed,
    Inodes,
    Link,
    Mkdir,
    Open,
    Rename,
    SetXattr,
    Step,
    Symlink,
    Unlink,
    Write,
)
from tests.support.overlaymounts import FuseOverlay, KernelOverlay
from tests.t6_mount.overlay.arena import Arena, Side, mounted
from tests.t6_mount.overlay.stacks import Layer, build

FILES = 100
# what is worked on until the daemon is killed
PORTION = 25
OLD = b"an old line of many\n" * 20_000
MORE = b"and a new one\n"
NEW = b"all new\n" * 1000
SMALL = b"small\n" * 700
APPEND = os.O_WRONLY | os.O_APPEND
NAMES = ("file", "sub/link")
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _fill(layer: Layer) -> None:
    """Files of 400 kB, which take a while to copy; small ones; files of two names; directories."""
    for number in range(FILES):
        for name in (b"small%d" % number, b"gone%d" % number):
            layer.file(name, SMALL, 0o640, (1000, 1000))
            layer.xattr(name, "user.a", b"kept")
        layer.file(b"file%d" % number, OLD, 0o640, (1000, 1000))
        layer.xattr(b"file%d" % number, "user.a", b"kept")
        layer.file(b"one%d" % number, OLD)
        layer.link(b"one%d" % number, b"two%d" % number)
        layer.directory(b"dir%d" % number)
        layer.file(b"dir%d/file" % number, b"inside")
        layer.directory(b"dir%d/sub" % number)
        layer.link(b"dir%d/file" % number, b"dir%d/sub/link" % number)


@dataclass(frozen=True, slots=True)
class Work:
    """The steps for one number, and whether what a tree has of that number is as before or as after them.

    `state` fails where it is neither, nor anything that may be between two steps. With `listed` the daemon has told of
    all files in listings before.
    """

    steps: Callable[[bytes], tuple[Step, ...]]
    state: Callable[[Path, int], str]
    listed: bool = False


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _one_of(found: object, **states: object) -> str:
    names = [name for name, state in states.items() if found == state]
    assert names, f"neither old nor new: {str(found)[:100]}"
    return names[0]


def _appended(root: Path, number: int) -> str:
    path = root / f"file{number}"
    assert (path.stat().st_mode & 0o7777, path.stat().st_uid) == (0o640, 1000)
    assert os.getxattr(path, "user.a") == b"kept"
    return _one_of(path.read_bytes(), before=OLD, after=OLD + MORE)


def _appended_to_both(root: Path, number: int) -> str:
    found = [
        _one_of((root / f"{name}{number}").read_bytes(), before=OLD, after=OLD + MORE)
        for name in ("one", "two")
    ]
    assert found[0] == found[1]
    # names that parted would part for good with the next write
    assert (root / f"one{number}").samefile(root / f"two{number}")
    return found[0]


def _attributed(root: Path, number: int) -> str:
    path = root / f"file{number}"
    assert path.read_bytes() == OLD
    found = path.stat().st_mode & 0o7777, os.getxattr(path, "user.a")
    return _one_of(found, before=(0o640, b"kept"), between=(0o600, b"kept"), after=(0o600, b"new"))


def _replaced(root: Path, number: int) -> str:
    found = _content(root / f"file{number}"), _content(root / f"new{number}")
    if found in ((OLD, b""), (OLD, NEW)):
        return "between"
    return _one_of(found, before=(OLD, None), after=(NEW, None))


def _renamed(root: Path, number: int) -> str:
    found = _content(root / f"file{number}"), _content(root / f"new{number}")
    return _one_of(found, before=(OLD, None), after=(None, OLD))


def _directory_renamed(root: Path, number: int) -> str:
    found = _content(root / f"dir{number}/file"), _content(root / f"new{number}/file")
    return _one_of(found, before=(b"inside", None), after=(None, b"inside"))


def _directory_renamed_and_written(root: Path, number: int) -> str:
    """Over an empty directory, with a link in it that nobody has looked at when the other is written."""
    old, new = root / f"dir{number}", root / f"new{number}"
    states = [(path / name).read_bytes() for path in (old, new) for name in NAMES if (path / name).exists()]
    assert len(states) == 2
    assert states[0] == states[1]
    if (old / "file").exists():
        return _one_of((states[0], new.exists()), before=(b"inside", False), between=(b"inside", True))
    return _one_of(states[0], between=b"inside", after=b"beside")


def _created(root: Path, number: int) -> str:
    new = root / f"new{number}"
    if not new.exists():
        return "before"
    names = sorted(os.listdir(new))
    if names == ["1", "link"] and all((new / name).read_bytes() == NEW for name in names):
        assert os.readlink(new / "link") == "1"
        return "after"
    assert names in ([], ["1"], ["0"], ["0", "1"]), names
    assert all((new / name).read_bytes() in (b"", NEW) for name in names)
    return "between"


def _removed(root: Path, number: int) -> str:
    return _one_of(_content(root / f"file{number}"), before=OLD, after=None)


def _changed_and_removed(root: Path, number: int) -> str:
    small, status = root / f"small{number}", (root / f"small{number}").stat()
    assert (status.st_uid, os.getxattr(small, "user.a")) == (1000, b"kept")
    states = [
        (0o640, SMALL, SMALL, "before"),
        (0o600, SMALL, SMALL, "before"),
        (0o600, SMALL + MORE, SMALL, "before"),
        (0o600, SMALL + MORE, None, "before"),
        (0o600, SMALL + MORE, None, "after"),
    ]
    gone, large = _content(root / f"gone{number}"), _appended(root, number)
    found = status.st_mode & 0o7777, small.read_bytes(), gone, large
    return "between" if found in states[1:-1] else _one_of(found, before=states[0], after=states[-1])


WORKS = {
    "append": Work(lambda n: (Open(0, b"file" + n, APPEND), Write(0, MORE)), _appended),
    "append to one of two names": Work(
        lambda n: (Open(0, b"one" + n, APPEND), Write(0, MORE)), _appended_to_both
    ),
    "attributes": Work(
        lambda n: (Chmod(b"file" + n, 0o600), SetXattr(b"file" + n, "user.a", b"new")), _attributed
    ),
    "replace": Work(
        lambda n: (Open(0, b"new" + n, CREATE), Write(0, NEW), Rename(b"new" + n, b"file" + n)), _replaced
    ),
    "rename": Work(lambda n: (Rename(b"file" + n, b"new" + n),), _renamed),
    "rename directories": Work(lambda n: (Rename(b"dir" + n, b"new" + n),), _directory_renamed),
    "rename directories over others and write": Work(
        lambda n: (
            Mkdir(b"new" + n),
            Rename(b"dir" + n, b"new" + n),
            Open(0, b"new" + n + b"/file", os.O_WRONLY),
            Write(0, b"beside"),
        ),
        _directory_renamed_and_written,
    ),
    "create": Work(
        lambda n: (
            Mkdir(b"new" + n),
            Open(0, b"new" + n + b"/0", CREATE),
            Write(0, NEW),
            Link(b"new" + n + b"/0", b"new" + n + b"/1"),
            Unlink(b"new" + n + b"/0"),
            Symlink(b"1", b"new" + n + b"/link"),
        ),
        _created,
    ),
    "remove": Work(lambda n: (Unlink(b"file" + n),), _removed),
    "change and remove small files that were listed": Work(
        lambda n: (
            Chmod(b"small" + n, 0o600),
            Open(0, b"small" + n, APPEND),
            Write(0, MORE),
            Unlink(b"gone" + n),
            Open(0, b"file" + n, APPEND),
            Write(0, MORE),
        ),
        _changed_and_removed,
        listed=True,
    ),
}


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    return build([_fill], arena.new_directory())


@pytest.fixture
def side(arena: Arena, crfs_overlay: FuseOverlay, lowers: tuple[Path, ...]) -> Iterator[Side]:
    with mounted(crfs_overlay, arena, lowers, arena.new_directory()) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_killed_at_work(side: Side, work: Work) -> None:
    """Each time further on, with whatever the times before have left in the work directory."""
    states, order = ["before"] * FILES, random.Random(1).sample(range(FILES), FILES)
    caught = 0
    for first in range(0, FILES, PORTION):
        numbers = order[first : first + PORTION]
        if work.listed:
            side.call(Inodes())
        answers = _killed_after(side, work, numbers, 1 + first // 5)
        side.mount()
        for number, wanted in zip(numbers, answers, strict=True):
            states[number] = work.state(side.at, number)
            assert wanted in (states[number], "in flight"), number
        caught += "before" in answers
        assert [work.state(side.at, number) for number in range(FILES)] == states
        assert side.left_over() == []
    side.unmount()
    side.mount(KernelOverlay())
    assert [work.state(side.at, number) for number in range(FILES)] == states
    assert caught > 1, "it was always too late"


def _killed_after(side: Side, work: Work, numbers: list[int], entries: int) -> list[str]:
    """Have the work done; kill the daemon once there are so many more entries in the upper directory.

    For each number whether the daemon has said that all was done (`after`), or no more than begun (`in flight`).
    """
    pids, wanted = side.pids, len(os.listdir(side.upper)) + entries
    steps = [work.steps(b"%d" % number) for number in numbers]
    side.hand.start(*itertools.chain(*steps))
    _kill_when(pids, lambda: len(os.listdir(side.upper)) >= wanted)
    answers = iter(side.hand.answers())
    side.close()
    done = [
        "before" if Failed in map(type, itertools.islice(answers, len(each))) else "after" for each in steps
    ]
    if "before" in done:
        done[done.index("before")] = "in flight"
    return done


LARGE = 96 << 20


def _large(layer: Layer) -> None:
    layer.file(b"large", b"0123456789abcdef" * (LARGE >> 4), 0o640, (1000, 1000))
    layer.link(b"large", b"link")


@pytest.mark.parametrize("megabytes", [0, 5, 40])
def test_killed_in_a_large_copy_up(arena: Arena, crfs_overlay: FuseOverlay, megabytes: int) -> None:
    """Both names have the old bytes, the new one nowhere; the half of a copy is gone with the next mount."""
    base = arena.new_directory()
    with mounted(crfs_overlay, arena, build([_large], base), base) as side:
        pids = side.pids
        side.hand.start(Open(0, b"large", APPEND), Write(0, MORE))
        _kill_when(pids, lambda: any(path.stat().st_size >> 20 >= megabytes for path in side.left_over()))
        answers = list(side.hand.answers())
        side.close()
        assert side.left_over()
        assert list(map(type, answers)) == [Failed, Failed]
        side.mount()
        assert side.left_over() == []
        names = [side.at / "large", side.at / "link"]
        assert {(name.stat().st_size, name.stat().st_uid, name.stat().st_nlink) for name in names} == {
            (LARGE, 1000, 2)
        }
        with names[1].open("ab") as file:
            file.write(MORE)
        assert {name.stat().st_size for name in names} == {LARGE + len(MORE)}


def _kill_when(pids: Sequence[int], happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happens() and time.monotonic() < deadline:
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
