"""`crfs demo`: an image from a registry of its own, mounted and run, with what that took.

Everything is on this machine and in one temporary directory, and is gone afterwards, also after a failure or
Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from crfs.blobs.credentials import CredentialStore
from crfs.blobs.endpoint import Access
from crfs.blobs.fetchloop import FetchLoop
from crfs.blobs.http import Http
from crfs.blobs.push import RegistryPush
from crfs.blobs.registriesconf import RegistriesConf
from crfs.cli.demo_image import HOME, INTERPRETER, LIBRARIES, LOADER, PACKAGES, collect
from crfs.cli.terminable import terminable
from crfs.convert.entries import TarEntry
from crfs.convert.image import LayerFile, Run, push_image
from crfs.convert.lazylayer import Options, write_layer
from crfs.errors import CrfsError, MountError
from crfs.formats.reference import ImageReference
from crfs.registry.bodies import Counters
from crfs.registry.server import Registry

# of a shared library only parts are read, so a quarter of the usual size
_CHUNK_SIZE = 1 << 20
# 4 is about as small as 9 on binaries, and several times as fast
_LEVEL = 4
_TIMEOUT_SECONDS = 60
_T = TypeVar("_T")
_SCRIPT = Path(__file__).with_name("demo_program.py")


class Step(Struct, frozen=True):
    """What one step took: `seconds`, and what the registry answered meanwhile."""

    seconds: float
    traffic: Counters

    def __add__(self, other: "Step") -> "Step":
        return Step(self.seconds + other.seconds, self.traffic + other.traffic)


class Result(Struct, frozen=True):
    """All that the table shows."""

    files: int
    bytes: int
    compressed: int
    mounted: Step
    ran: Step
    program: str


def configure(parser: argparse.ArgumentParser) -> None:
    """The demo has no options."""
    parser.epilog = "Needs /dev/fuse. Everything happens on 127.0.0.1 and in a temporary directory."


def run(_args: argparse.Namespace) -> int:
    """Show the table; CrfsError where something doesn't work."""
    _check_fuse()
    with (
        terminable(),
        tempfile.TemporaryDirectory(prefix="crfs-demo-", ignore_cleanup_errors=True) as scratch,
    ):
        result = _demonstrate(Path(scratch))
    _show(result)
    return 0


def _check_fuse() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = "in a container, --device /dev/fuse --cap-add SYS_ADMIN gives it"
        raise MountError(f"/dev/fuse can't be opened ({error.strerror}); {hint}") from error


def _demonstrate(scratch: Path) -> Result:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        entries, layer = _build_layer(scratch, progress)
        with Registry(scratch / "registry") as registry:
            with _stage(progress, "push"):
                _push(registry.address, layer)
            mounted, ran, program = _mount_and_run(registry, scratch, progress)
    size = sum(entry.info.size for entry in entries)
    files = sum(entry.info.isreg() for entry in entries)
    return Result(files, size, layer.converted.size, mounted, ran, program)


def _build_layer(scratch: Path, progress: Progress) -> tuple[list[TarEntry], LayerFile]:
    """The image's only layer, in `scratch`."""
    collecting = progress.add_task("collect files", total=None)
    entries = collect(lambda count: progress.update(collecting, completed=count))
    converting = progress.add_task("convert to eStargz", total=len(entries))

    def counted() -> Iterator[TarEntry]:
        for entry in entries:
            yield entry
            progress.advance(converting)

    path = scratch / "layer"
    with path.open("wb") as out:
        return entries, LayerFile(
            path, write_layer(counted(), out, Options(chunk_size=_CHUNK_SIZE, level=_LEVEL))
        )


def _push(address: str, layer: LayerFile) -> None:
    """Push the image as ADDRESS/demo:latest, by the client that any registry is pushed to with."""
    loop, http = FetchLoop(), Http()
    loop.start()
    try:
        reference = ImageReference(address, "demo", "latest")
        push = RegistryPush(reference, Access(http, CredentialStore(None), False), RegistriesConf())
        start = Run(
            (f"/{LOADER}", "--library-path", f"/{LIBRARIES}", f"/{INTERPRETER}"), env=(f"PYTHONHOME=/{HOME}",)
        )
        loop.submit(push_image(push, [layer], start, "latest")).result()
        loop.submit(http.close()).result()
    finally:
        loop.close()


def _mount_and_run(registry: Registry, scratch: Path, progress: Progress) -> tuple[Step, Step, str]:
    """Mount, run and unmount; what the first two took, and what the program said of itself."""
    mountpoint = scratch / "mnt"
    mountpoint.mkdir()
    image = f"docker://{registry.address}/demo:latest"
    places = ("--cache", f"{scratch}/cache", "--log-file", f"{scratch}/log")
    with contextlib.ExitStack() as stack:
        stack.callback(_unmount, mountpoint)
        with _stage(progress, "mount"):
            command = ("mount", image, str(mountpoint), "--tls-verify=false", *places)
            _, mounted = _measure(registry, lambda: _crfs(*command))
        with _stage(progress, "run Python from the mount"):
            try:
                program, ran = _measure(registry, lambda: _run_program(mountpoint))
            except MountError as error:
                raise MountError(f"{error}{_last_words(scratch / 'log')}") from error
    return mounted, ran, program


def _last_words(log: Path) -> str:
    """What the mount logged last, to be added to a message."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return f"; the mount's log: {lines[-1]}" if lines else ""


@contextlib.contextmanager
def _stage(progress: Progress, name: str) -> Iterator[None]:
    """Show that something goes on, for as long as it does."""
    task = progress.add_task(name, total=None)
    try:
        yield
    finally:
        progress.remove_task(task)


def _measure(registry: Registry, work: Callable[[], _T]) -> tuple[_T, Step]:
    before, started = registry.counters, time.perf_counter()
    result = work()
    return result, Step(time.perf_counter() - started, registry.counters - before)


def _crfs(*arguments: str) -> None:
    """Run a command of ours as a user would; its one line of complaint as MountError."""
    command = [sys.executable, "-m", "crfs.cli.main", *arguments]
    # out of reach of the terminal's Ctrl-C: a mount that is half made can't be taken down
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, complaint = process.communicate(timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise MountError(f"crfs {arguments[0]} has not ended after {_TIMEOUT_SECONDS} s") from error
    if process.returncode:
        raise MountError(complaint.strip().removeprefix("crfs: ") or f"crfs {arguments[0]} failed")


def _unmount(mountpoint: Path) -> None:
    """Leave nothing mounted, whatever happened before; another Ctrl-C waits until this is done."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        if os.path.ismount(mountpoint):
            try:
                _crfs("umount", str(mountpoint))
            except CrfsError:
                if not os.path.ismount(mountpoint):
                    # it is only the process behind it that has not ended
                    raise
                _crfs("umount", "--lazy", str(mountpoint))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _run_program(root: Path) -> str:
    """Run Python out of the mount at `root`, and check what it says; MountError where it is wrong."""
    # by env(1): Popen holds the GIL until its child has begun a program (vfork), and for one from the mount
    # the registry would have to answer meanwhile, in a thread of this process
    command = ["env", "-i", f"PYTHONHOME={root}/{HOME}", f"PYTHONPATH={root}/{PACKAGES}", "LC_ALL=C.UTF-8"]
    command += [f"{root}/{LOADER}", "--library-path", f"{root}/{LIBRARIES}", f"{root}/{INTERPRETER}"]
    # no site: its .pth files may lead out of the mount
    command += ["-S", "-s", "-B", "-c", _SCRIPT.read_text(), str(root)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountError(f"Python from the mount failed: {error}") from error
    if done.returncode:
        raise MountError(f"Python from the mount failed: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout)
    if answer["strangers"] or answer["wrong"]:
        raise MountError(f"Python from the mount is not what went in: {done.stdout.strip()}")
    return f"Python {answer['python']}, {answer['modules']} modules" + "".join(
        f", {text}" for text in answer["libraries"]
    )


def _show(result: Result) -> None:
    size, compressed = _megabytes(result.bytes), _megabytes(result.compressed)
    table = Table(title=f"{result.files:,} files, {size} MB; {compressed} MB compressed")
    for heading in ("", "requests", "MB fetched", "% of the image", "seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    both = result.mounted + result.ran
    for name, step in (("mount", result.mounted), ("run", result.ran), ("together", both)):
        fetched = step.traffic.bytes_sent
        share = f"{100 * fetched / result.compressed:.1f}"
        table.add_row(name, f"{step.traffic.requests}", _megabytes(fetched), share, f"{step.seconds:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Ran from the mount: {result.program}", highlight=False)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
