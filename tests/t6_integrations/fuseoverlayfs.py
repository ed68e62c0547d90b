"""The real fuse-overlayfs, which says what its options do, and ours: mounted, looked at, and gone again."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.support.dockerregistry import need_programs, need_root
from tests.support.mounting import crfs_in, need_fuse, run_program

P = ParamSpec("P")
T = TypeVar("T")
THEIRS = "fuse-overlayfs"
OURS = "crfs-overlayfs"
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    THEIRS: ("fuse-overlayfs",),
    OURS: (sys.executable, "-P", "-m", "crfs.cli.overlayfs"),
}


@contextlib.contextmanager
def mounted(name: str, place: Path, options: str, wrapper: Sequence[str] = ()) -> Iterator[Path]:
    """A mount of one of the two with `options`, in which paths are relative to `place`. Silent, if it is ours.

    `wrapper` is the beginning of a command line that runs it.
    """
    need_root()
    need_fuse()
    need_programs(["fuse-overlayfs"])
    at = place / "merged"
    at.mkdir(exist_ok=True)
    with crfs_in(place / "crfs") as crfs:
        # a file for its words: a daemon would keep a pipe open
        with (place / "stderr").open("w") as stderr:
            done = subprocess.run(
                [*wrapper, *PROGRAMS[name], "-o", options, str(at)],
                cwd=place,
                env=crfs.environment,
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                timeout=60,
            )
        said = (place / "stderr").read_text()
        try:
            assert done.returncode == 0, said
            assert name == THEIRS or not said
            yield at
        finally:
            if os.path.ismount(at):
                run_program("umount", at)


@contextlib.contextmanager
def fuse_overlayfs(place: Path, options: str) -> Iterator[Path]:
    """A mount of the real one."""
    with mounted(THEIRS, place, options) as at:
        yield at


def of_both(
    tmp_path: Path, options: str, fill: Callable[[Path], None], use: Callable[[Path, Path], T]
) -> dict[str, T]:
    """What `use(mountpoint, place)` says of each, by name. `fill(place)` makes what lies in `low`."""
    said = {}
    for name in PROGRAMS:
        place = tmp_path / name
        for directory in ("low", "up", "work"):
            (place / directory).mkdir(parents=True)
        fill(place)
        with mounted(name, place, f"lowerdir=low,upperdir=up,workdir=work,{options}") as at:
            said[name] = use(at, place)
    return said


def same(tmp_path: Path, options: str, fill: Callable[[Path], None], use: Callable[[Path, Path], T]) -> T:
    """What `use` says of both: the same, or the test fails."""
    said = of_both(tmp_path, options, fill, use)
    assert said[OURS] == said[THEIRS]
    return said[OURS]


def failed(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int | None:
    """The errno that a call fails with, or None."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return error.errno
    return None
