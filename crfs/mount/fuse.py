"""The fuse engine: llfuse carries tree and bytes. Works everywhere, also without root."""

import contextlib
import os
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from crfs._native.index import Tree
from crfs.errors import MountError
from crfs.fuse.readonly import Reader, ReadOnly
from crfs.fuse.session import NETWORK_WORKERS, Operations, open_session, serve
from crfs.fuse.statedirectory import StateDirectory
from crfs.image.report import Report, state_files
from crfs.mount.engines.choice import FUSE, Choice
from crfs.mount.leftovers import sweep
from crfs.mount.mountpoint import find_mount
from crfs.mount.state import stated
from crfs.mount.telling import telling


class MountRequest(Struct, frozen=True):
    """Where to mount and how: `options` go to libfuse as they are, `source` is what mount(8) shows.

    Unless `threaded`, requests are answered one after the other. For MountState: an overlay's `lowers` and `upper`,
    and the `choice` of an engine. `report` says what the images of the mount have been through; any thread calls it.
    """

    mountpoint: Path
    source: str
    options: tuple[str, ...] = ()
    writable: bool = False
    threaded: bool = True
    lowers: tuple[str, ...] = ()
    upper: str | None = None
    choice: Choice = FUSE
    report: Callable[[], Report] | None = None


def session_options(request: MountRequest) -> list[str]:
    """The options for libfuse: as root, everyone may look and setuid and device files count, as on disk."""
    source = request.source.replace("\\", "\\\\").replace(",", "\\,")
    options = [f"fsname={source}", "subtype=crfs", "rw" if request.writable else "ro", "default_permissions"]
    if request.writable:
        # else libfuse 2 has the kernel send no more than a page at a time
        options.append("big_writes")
    if os.geteuid() == 0:
        options += ["suid", "dev"]
        # libfuse takes only one of the two
        options += [] if "allow_root" in request.options else ["allow_other"]
    return [_ascii(option) for option in (*options, *request.options)]


def _ascii(option: str) -> str:
    """llfuse takes nothing else; other characters are shown as Python would escape them."""
    # libfuse takes a backslash for an escape of its own
    return re.sub(r"[^\0-\x7f]", lambda char: "\\" + ascii(char[0])[1:-1], option)


def serve_tree(
    tree: Tree, reader: Reader, request: MountRequest, ready: Callable[[], None], stop: Callable[[], None]
) -> None:
    """Mount a tree, read-only, and serve it until it is unmounted; see serve_operations()."""
    serve_operations(ReadOnly(tree, reader), request, ready, stop)


def serve_operations(
    operations: Operations,
    request: MountRequest,
    ready: Callable[[], None],
    stop: Callable[[], None],
    workers: int = NETWORK_WORKERS,
) -> None:
    """Mount and serve.

    `ready` is called when it answers, `stop` at the end, to wake who waits. MountError if it can't be made.
    """
    prepare()
    report = request.report
    if report is not None:
        operations = StateDirectory(operations, lambda: state_files(report()))
    open_session(operations, request.mountpoint, session_options(request))
    with contextlib.ExitStack() as known:

        def announce() -> None:
            known.enter_context(announced(request))
            ready()

        serve(request.mountpoint, announce, stop, workers=workers if request.threaded else 1)


@contextlib.contextmanager
def announced(request: MountRequest) -> Iterator[None]:
    """Have it known what is mounted, and that this process serves it; and nothing more of what nobody serves."""
    sweep()
    mounted = find_mount(request.mountpoint)
    if mounted is None:
        yield
        return
    choice = request.choice
    with contextlib.ExitStack() as known:
        state = stated(
            mounted.device,
            request.mountpoint,
            request.source,
            request.lowers,
            request.upper,
            choice.engine,
            choice.passed_over,
            reports=request.report is not None,
        )
        # forgotten last: then nothing is left of it
        known.enter_context(state)
        if request.report is not None:
            known.enter_context(telling(mounted.device, request.report))
        yield


def prepare() -> None:
    """Before a session: MountError where there is no FUSE; then, open files as many as may be.

    Each open file of the mount, and each that is referred to without a name, holds one.
    """
    if not os.path.exists("/dev/fuse"):
        raise MountError("/dev/fuse is missing: load the fuse module, or give the container the device")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
