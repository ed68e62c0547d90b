"""`crfs run SOURCE [CMD...]`: an image mounted under a directory for what is changed, and run by crun or runc.

The exit status is the program's; 125 where crfs failed, 126 and 127 as the shell has them.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from crfs.blobs.directories import container_directory, runtime_directory
from crfs.cli.handedover import hand_over_mount
from crfs.cli.options import add_background_options, add_log_options, add_source_options, add_trace_options
from crfs.cli.runoptions import add_run_options, wish_of
from crfs.cli.terminable import terminable
from crfs.cli.umount import take_away
from crfs.errors import CrfsError, MountError
from crfs.formats.manifest import ContainerConfig, parse_config
from crfs.integrations.runtime.bundle import Volume, make_spec
from crfs.integrations.runtime.engine import FAILED, NOT_RUN, NOT_THERE, Runtime, find_runtime
from crfs.integrations.runtime.place import Place, opened_place
from crfs.integrations.runtime.supervise import Stopping, supervise
from crfs.mount.engines.needs import lacks_privilege

_IMAGE_CONFIG = "image.json"
# what `crfs mount` is told as it was told to us
_VALUES: tuple[str, ...] = (
    "authfile",
    "platform",
    "pull",
    "cache",
    "cache_size",
    "cache_free",
    "record",
    "trace",
    "engine",
)
_VALUES += ("background_rate", "log_level", "log_file")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.usage = "crfs run [OPTION...] SOURCE [CMD [ARG...]]"
    add_run_options(parser)
    add_source_options(parser)
    parser.add_argument(
        "command_words",
        metavar="CMD",
        nargs=argparse.REMAINDER,
        help="what to run instead of the image's command, with its arguments",
    )
    add_trace_options(parser)
    add_background_options(parser)
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run a container to its end; its exit status, or 125, 126 and 127 with a line on stderr."""
    try:
        return _run(args)
    except CrfsError as error:
        return _complain(str(error), FAILED)
    except OSError as error:
        return _complain(f"{error.filename or 'crfs run'}: {error.strerror or error}", FAILED)


def _complain(text: str, status: int) -> int:
    print("crfs:", text.replace("\n", "\\n"), file=sys.stderr)
    return status


def _run(args: argparse.Namespace) -> int:
    wish = wish_of(args)
    runtime = find_runtime(args.runtime, Path())
    if lacks_privilege():
        _enter_user_namespace()
    keep = args.name is not None and not args.remove
    base = container_directory()
    with terminable(), opened_place(base, args.name, keep, take_away) as place:
        runtime = Runtime(runtime.program, place.directory)
        status = _mount(args, place)
        if status:
            return status if status > 128 else FAILED
        config = _claimed_config(place, args.source)
        files = () if args.net == "none" else _network_files(place)
        try:
            spec = make_spec(place.directory, place.name, config, wish, files)
        except FileNotFoundError as error:
            return _complain(f"{error.filename}: there is no such program in the image", NOT_THERE)
        except PermissionError as error:
            return _complain(f"{error.filename}: permission denied", NOT_RUN)
        (place.directory / "config.json").write_bytes(spec.encoded())
        place.remember_runtime(runtime)
        return _supervise(args, runtime, place, _stop_signal(config))


def _supervise(args: argparse.Namespace, runtime: Runtime, place: Place, stop: int) -> int:
    def kill(number: int) -> None:
        runtime.kill(place.name, number)

    stopping = Stopping(stop, args.stop_timeout, kill)
    words = runtime.run(place.directory, place.name)
    with _shown(args, place) as tick, _terminal_kept() if args.tty else contextlib.nullcontext():
        # the runtime looks after the terminal that is its input
        status = supervise(words, not (args.interactive or args.tty), stopping, tick)
    return runtime.status(status)


@contextlib.contextmanager
def _shown(args: argparse.Namespace, place: Place) -> Iterator[Callable[[], None] | None]:
    """What is to be called for `--progress`. A terminal that is the program's own is left alone."""
    if not args.progress or args.tty:
        yield None
        return
    from crfs.cli.progress import progress

    with progress(place.rootfs) as line:
        yield line.tick if line else None
        if line:
            line.tick()


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Have the terminal as it was, also after a runtime that was killed."""
    before = termios.tcgetattr(0)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _stop_signal(config: ContainerConfig) -> int:
    """The number of SIGNAME, NAME or a number, as images have it; SIGTERM for what is none."""
    name = (config.stop_signal or "").upper()
    if name.isdecimal():
        return int(name)
    base, plus, more = name.removeprefix("SIG").partition("+")
    found = getattr(signal, f"SIG{base}", signal.SIGTERM)
    return found + int(more) if plus and more.isdecimal() else found


def _enter_user_namespace() -> None:
    """Go on as root of a user namespace, with all ids that /etc/subuid gives us; MountError where that can't be."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise MountError("without root, unshare(1) is needed: install the package util-linux")
    # in there, nobody could tell
    os.environ["XDG_RUNTIME_DIR"] = str(runtime_directory().parent)
    said = ""
    for maps in (["--map-auto"], []):
        words = [unshare, "--user", "--map-root-user", *maps, "--mount", "--"]
        tried = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            ours = [sys.executable, "-P", "-m", "crfs.cli.main", *sys.argv[1:]]
            os.execv(unshare, [*words, *ours])
        said = tried.stderr
    raise MountError(f"without root, a user namespace is needed: {' '.join(said.split())}")


def _mount_words(args: argparse.Namespace, place: Place) -> list[str]:
    words = ["mount", "--upper", str(place.directory / "upper"), "--work", str(place.directory / "work")]
    words += ["--new-upper"] if place.is_new else []
    words += ["--image-config", str(place.directory / _IMAGE_CONFIG)]
    for name in _VALUES:
        value = getattr(args, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}={value}"]
    words += [] if args.tls_verify is None else [f"--tls-verify={args.tls_verify}"]
    words += ["--allow-unverified"] if args.allow_unverified else []
    words += [] if args.traces else ["--no-trace"]
    words += [] if args.background_fetch else ["--no-background-fetch"]
    words += [] if args.server else ["--no-server"]
    return [*words, "--", args.source, str(place.rootfs)]


def _mount(args: argparse.Namespace, place: Place) -> int:
    """Mount the image; the exit status of `crfs mount`, which has said why itself."""
    words = _mount_words(args, place)
    status = hand_over_mount("crfs", words)
    if status is not None:
        return status
    command = [sys.executable, "-P", "-m", "crfs.cli.main", *words]
    # out of reach of the terminal's Ctrl-C: a mount that is half made can't be taken down
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _claimed_config(place: Place, source: str) -> ContainerConfig:
    """How the image wants to be run; a layer or a directory has no wishes."""
    try:
        body = (place.directory / _IMAGE_CONFIG).read_bytes()
    except FileNotFoundError:
        body = b""
    place.claim_image(hashlib.sha256(body or source.encode()).hexdigest(), source)
    return parse_config(body).config if body else ContainerConfig()


def _network_files(place: Place) -> Sequence[Volume]:
    """What names are resolved by, as it is on this machine, and may be changed by the container for itself."""
    volumes = []
    for name in ("hosts", "resolv.conf"):
        with contextlib.suppress(OSError):
            copy = place.directory / name
            copy.write_bytes(Path("/etc", name).read_bytes())
            volumes.append(Volume(str(copy), f"/etc/{name}"))
    return volumes
