"""What is known of each running mount: a small file per mount in the user's runtime directory.

Named by the mount's device number, which is unique among mounts that live. A file whose process is gone is
left over from a kill and is not believed.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from crfs.blobs.directories import runtime_directory


class MountState(msgspec.Struct, frozen=True):
    """A mount and the process that serves it; `started` is the process's start in clock ticks (proc(5)).

    Of an overlay: its `lowers`, topmost first, as sources that can be opened again, images by digest; and `upper`.
    `engine` serves it, and those that would have been better were passed over, each for a reason. Without images
    nothing is fetched, and it `reports` nothing (telling).
    """

    mountpoint: str
    source: str
    pid: int
    started: int
    lowers: tuple[str, ...] = ()
    upper: str | None = None
    engine: str = "fuse"
    passed_over: dict[str, str] = {}
    reports: bool = True


def _path(device: str) -> Path:
    return runtime_directory() / f"mount-{device.replace(':', '-')}.json"


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if there is no such process, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # the name, in brackets, may hold anything; the state is the first field behind it, the start the 20th
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@contextlib.contextmanager
def stated(
    device: str,
    mountpoint: Path,
    source: str,
    lowers: Sequence[str] = (),
    upper: str | None = None,
    engine: str = "fuse",
    passed_over: Mapping[str, str] = {},
    reports: bool = True,
) -> Iterator[None]:
    """Have it known, for as long as this lasts, that this process serves the mount with that device number.

    Where the runtime directory takes no file, it is not known, and nothing else happens.
    """
    with contextlib.suppress(OSError):
        pid = os.getpid()
        state = MountState(
            _shown(mountpoint),
            _shown(source),
            pid,
            process_start(pid) or 0,
            tuple(map(_shown, lowers)),
            None if upper is None else _shown(upper),
            engine,
            dict(passed_over),
            reports,
        )
        _store(device, state)
    try:
        yield
    finally:
        found = find_state(device)
        # once unmounted, the number may be that of another mount by now
        if found is not None and found.pid == os.getpid():
            _unlink(device)


def _store(device: str, state: MountState) -> None:
    path = _path(device)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = path.with_suffix(f".{state.pid}")
    staged.write_bytes(msgspec.json.encode(state))
    staged.rename(path)


def _shown(name: str | Path) -> str:
    """A name for readers; JSON can't hold bytes that are no UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def find_state(device: str) -> MountState | None:
    """The living process behind a mount, if it is known."""
    state = _load(_path(device))
    return state if state is not None and process_start(state.pid) == state.started else None


def _load(path: Path) -> MountState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=MountState)
    except (OSError, msgspec.DecodeError):
        return None


def serves_others(device: str, state: MountState) -> bool:
    """Whether the process behind a mount is known to serve another one as well."""
    paths = (path for path in runtime_directory().glob("mount-*.json") if path != _path(device))
    return any(
        (other.pid, other.started) == (state.pid, state.started)
        for other in map(_load, paths)
        if other is not None
    )


def is_lost(device: str) -> bool:
    """Whether the process behind a mount was known, and is gone."""
    return _path(device).exists() and find_state(device) is None


def drop_dead_state(device: str) -> None:
    """Forget a mount whose process is gone without having done so."""
    if find_state(device) is None:
        _unlink(device)
        for path in runtime_directory().glob(f"{_path(device).stem}.*.sock"):
            path.unlink(missing_ok=True)


def _unlink(device: str) -> None:
    with contextlib.suppress(OSError):
        _path(device).unlink()
