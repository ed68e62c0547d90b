"""`crfs mount SOURCE DIR`: returns when the mount answers, and leaves a daemon that serves it."""

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from crfs.blobs.directories import log_directory
from crfs.cli.background import run_in_background
from crfs.cli.mountoptions import apply_mount_options
from crfs.cli.options import (
    add_background_options,
    add_log_options,
    add_metrics_option,
    add_source_options,
    add_trace_options,
    configure_log,
    metrics_of,
    open_log,
)
from crfs.errors import EngineRefused
from crfs.formats.reference import parse_source
from crfs.fuse.session import block_signals, interruptible
from crfs.mount.daemon import Ready
from crfs.mount.engines.choice import AUTO, NAMES, Choice, EngineName, Wanted, choose
from crfs.mount.fuse import MountRequest, serve_tree
from crfs.mount.memory import settle, tame_malloc
from crfs.mount.mountpoint import claim

if TYPE_CHECKING:
    from crfs.cli.upper import Stack
    from crfs.cli.wishes import Wish
    from crfs.mount.door import Door


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    add_source_options(parser)
    add_trace_options(parser)
    add_background_options(parser)
    parser.add_argument("dir", metavar="DIR", type=Path, help="an empty directory to mount on")
    parser.add_argument("-f", "--foreground", action="store_true", help="serve in the foreground")
    parser.add_argument(
        "-o",
        metavar="OPT[,OPT...]",
        dest="mount_options",
        action="append",
        default=[],
        help="mount options: those of mount.fuse(8), and every long option here as NAME[=VALUE]",
    )
    parser.add_argument(
        "--upper", metavar="DIR", type=Path, help="a directory that takes all changes: the mount is writable"
    )
    parser.add_argument(
        "--work", metavar="DIR", type=Path, help="an empty directory beside the upper one, on its file system"
    )
    parser.add_argument(
        "--new-upper",
        action="store_true",
        help="give the upper directory itself the mode, owner, times and attributes of the root below it",
    )
    parser.add_argument(
        "--lower",
        metavar="TREE",
        action="append",
        default=[],
        help="a directory, or what SOURCE may be, that lies over SOURCE (which may be a directory then); "
        "again for more, topmost first. -o lowerdir=A:B is the same",
    )
    parser.add_argument(
        "--engine",
        choices=NAMES,
        default=AUTO,
        help="what carries the mount: fuse, the kernel's overlayfs for what is written to (overlay), or the kernel "
        "for all but files' bytes (erofs, as root); the best that the machine allows unless given (auto)",
    )
    parser.add_argument(
        "--image-config",
        metavar="FILE",
        type=Path,
        help="write the image's config there (JSON), for who runs programs of it",
    )
    parser.add_argument(
        "--no-server",
        dest="server",
        action="store_false",
        help="start from nothing, and leave no process behind that makes the next mounts quicker",
    )
    add_metrics_option(parser)
    add_log_options(parser)
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        type=Path,
        help="where the daemon logs to (default: $XDG_STATE_HOME/crfs/log/mount.log)",
    )


def run(args: argparse.Namespace) -> int:
    """Mount; any CrfsError where it can't be done, in the foreground or before the daemon is ready."""
    fuse_options, nonempty = apply_mount_options(args)
    stack = None
    if args.upper is not None or args.work is not None or args.lower:
        # late, here and below: a read-only mount of one image need not wait for the overlay
        from crfs.cli.upper import stack_of

        stack = stack_of(args)
    where = claim(args.dir, nonempty=nonempty)
    wanted = (
        Wanted(None, fuse_options, True) if stack is None else Wanted(stack.spec, fuse_options, stack.image)
    )
    choice = choose(args.engine, wanted)
    if args.foreground:
        configure_log(args.log_level, f"crfs[{os.getpid()}] {where}")
        _serve(args, where, fuse_options, stack, choice, lambda: None)
        return 0
    log_path = (args.log_file or log_directory() / "mount.log").absolute()

    if choice.engine is EngineName.EROFS:
        from crfs.cli.wishes import may_fall_back, may_share, mount_together

        wish = _wish(args, where, fuse_options, stack, choice)
        if may_share(args, wish):
            try:
                mount_together(args, wish, log_path, _serve_together)
                return 0
            except EngineRefused as error:
                choice = may_fall_back(args, choice, error)

    def work(ready: Ready) -> None:
        log = open_log(log_path)
        configure_log(args.log_level, f"crfs[{os.getpid()}] {where}", log)
        _serve(args, where, fuse_options, stack, choice, lambda: ready(log))

    # before the fork, so that a warm process has it, too
    import_module("crfs.cli.erofs" if choice.engine is EngineName.EROFS else "crfs.cli.compose")
    run_in_background(work, warm=args.server)
    return 0


def _wish(
    args: argparse.Namespace, where: Path, options: tuple[str, ...], stack: "Stack | None", choice: Choice
) -> "Wish":
    from crfs.cli.wishes import wish_of

    source = parse_source(args.source) if stack is None else stack.images[0]
    return wish_of(args, where, options, choice, source, None if stack is None else stack.spec)


def _serve_together(door: "Door", ready: Callable[[], None]) -> None:
    from crfs.cli.erofs import serve_together

    tame_malloc()
    block_signals()
    serve_together(door, ready)


def _serve(
    args: argparse.Namespace,
    where: Path,
    options: tuple[str, ...],
    stack: "Stack | None",
    choice: Choice,
    ready: Callable[[], None],
) -> None:
    """Open what is to be mounted and serve it; runs in the process that stays."""
    tame_malloc()
    block_signals()
    if choice.engine is EngineName.EROFS:
        from crfs.cli.erofs import serve_alone
        from crfs.cli.wishes import may_fall_back

        try:
            serve_alone(_wish(args, where, options, stack, choice), ready)
            return
        except EngineRefused as error:
            choice = may_fall_back(args, choice, error)
    if stack is None:
        _serve_image(args, where, options, choice, ready)
    else:
        from crfs.cli.upper import serve_stack

        serve_stack(args, where, options, stack, choice, ready)


def _serve_image(
    args: argparse.Namespace,
    where: Path,
    options: tuple[str, ...],
    choice: Choice,
    ready: Callable[[], None],
) -> None:
    from crfs.cli.compose import open_image, report_of
    from crfs.cli.services import open_services, settings_of

    settings = settings_of(args)
    services = open_services(settings)
    try:
        with interruptible():
            image = open_image(services, settings, parse_source(args.source))
        settle()
        request = MountRequest(
            where, image.name, options, choice=choice, report=lambda: report_of(services, [image])
        )
        with metrics_of(args.metrics, request):
            serve_tree(image.tree, image.reader, request, ready, image.reader.stop)
    finally:
        services.close()
