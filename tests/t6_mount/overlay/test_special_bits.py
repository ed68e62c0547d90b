"""Setuid and setgid go, or stay, with writes, cuts and changes of owner, as they do on the kernel's overlayfs."""

import itertools
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.overlaymounts import KernelOverlay, Mounter
from tests.t6_mount.overlay.arena import Arena, mounted
from tests.t6_mount.overlay.stacks import Layer, build

OWNER, GROUP = 1000, 2000
MODES = (0o4777, 0o2777, 0o6777, 0o2767, 0o6766, 0o777)
# user, group, and the groups that he is of as well
PEOPLE = ((0, 0, ()), (OWNER, 1000, (GROUP,)), (OWNER, 1000, ()), (1001, 1001, ()), (1001, GROUP, ()))
PLACES = ("lower", "new", "open", "fifos")
LARGE = 200_000
Person = tuple[int, int, Sequence[int]]
Action = Callable[[str], object]


def _with(path: str, flags: int, use: Callable[[int], object]) -> None:
    fd = os.open(path, flags)
    try:
        use(fd)
    finally:
        os.close(fd)


ACTIONS: dict[str, Action] = {
    "write": lambda path: _with(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"new", 0)),
    "write-much": lambda path: _with(path, os.O_WRONLY, lambda fd: os.pwrite(fd, bytes(LARGE), 0)),
    "append": lambda path: _with(path, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"more")),
    "cut": lambda path: os.truncate(path, 1),
    "cut-open": lambda path: _with(path, os.O_WRONLY, lambda fd: os.ftruncate(fd, 1)),
    "cut-opening": lambda path: _with(path, os.O_WRONLY | os.O_TRUNC, lambda fd: None),
    "give": lambda path: os.chown(path, -1, os.getgid()),
    "give-nothing": lambda path: os.chown(path, -1, -1),
    "touch": lambda path: os.utime(path),
}
# of others, where the file is open, FUSE can't tell it from what the kernel asks before they write
OWNERS = "give-nothing"
# where there is nothing to write
ATTRIBUTES = ("give", "give-nothing", "touch")
CASES = [(f"{action}-{mode:o}", action, mode) for action, mode in itertools.product(ACTIONS, MODES)]


def _fill(layer: Layer) -> None:
    layer.directory(b"lower")
    for name, _, _ in CASES:
        layer.file(b"lower/" + name.encode(), b"content")


@pytest.fixture(scope="module")
def lowers(arena: Arena) -> tuple[Path, ...]:
    lowers = build([_fill], arena.new_directory())
    _own(lowers[0] / "lower")
    return lowers


def _own(directory: Path) -> None:
    for name, _, mode in CASES:
        os.chown(directory / name, OWNER, GROUP)
        os.chmod(directory / name, mode)


def _make(root: Path) -> Iterator[int]:
    """New files, and those that somebody has open."""
    for place in ("new", "open", "fifos"):
        (root / place).mkdir()
        for name, _, _ in CASES:
            if place == "fifos":
                os.mkfifo(root / place / name)
            else:
                (root / place / name).write_bytes(b"content")
        _own(root / place)
    for name, _, _ in CASES:
        yield os.open(root / "open" / name, os.O_RDWR)


def _act(person: Person, root: Path) -> dict[str, str]:
    """What each action of a person comes to: the mode that is left, or what failed."""
    user, group, groups = person
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            # nobody else may search what leads there
            os.chdir(root)
            os.setgroups(groups)
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            for place, (name, action, _) in itertools.product(PLACES, CASES):
                if action == OWNERS and place == "open" and user not in (0, OWNER):
                    continue
                if place == "fifos" and action not in ATTRIBUTES:
                    continue
                os.write(writer, f"{place}/{name} {_outcome(f'{place}/{name}', ACTIONS[action])}\n".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as said:
        outcomes = dict(line.split(" ", 1) for line in said.read().splitlines())
    os.waitpid(child, 0)
    return outcomes


def _outcome(path: str, action: Action) -> str:
    try:
        action(path)
        failed = ""
    except OSError as error:
        failed = os.strerror(error.errno or 0)
    return f"{stat.S_IMODE(os.stat(path).st_mode):o} {failed}"


def _outcomes(mounter: Mounter, arena: Arena, lowers: tuple[Path, ...], person: Person) -> dict[str, str]:
    with mounted(mounter, arena, lowers, arena.new_directory()) as side:
        held = list(_make(side.at))
        try:
            return _act(person, side.at)
        finally:
            for fd in held:
                os.close(fd)


@pytest.mark.parametrize(
    "person", PEOPLE, ids=lambda person: "-".join(map(str, person[:2])) + "+" * len(person[2])
)
def test_they_go_as_on_overlayfs(
    arena: Arena, crfs_overlay: Mounter, lowers: tuple[Path, ...], person: Person
) -> None:
    expected = _outcomes(KernelOverlay(), arena, lowers, person)
    assert len(expected) > 3 * (len(CASES) - len(MODES))
    assert _outcomes(crfs_overlay, arena, lowers, person) == expected


def test_who_writes_to_a_setuid_program_does_not_run_as_its_owner(
    arena: Arena, overlay: Mounter, lowers: tuple[Path, ...]
) -> None:
    """Also where nobody has asked for its mode in between."""
    with mounted(overlay, arena, lowers, arena.new_directory()) as side:
        program = side.at / "id"
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4777)
        assert _run_as_other(side.at, "./id -u") == "0\n"
        first = program.read_bytes()[0]
        assert _run_as_other(side.at, f"printf '\\{first:o}' 1<>id && exec ./id -u") == "1001\n"


def _run_as_other(directory: Path, command: str) -> str:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        user=1001,
        group=1001,
        extra_groups=[],
    ).stdout
