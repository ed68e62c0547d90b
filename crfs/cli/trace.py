"""`crfs trace push|pull SOURCE [FILE]`: traces that travel with their image, as OCI artifacts that refer to it."""

import argparse
import sys
from pathlib import Path

from crfs.cli.options import add_log_options, add_source_options, configure_log
from crfs.errors import UsageError
from crfs.formats.reference import ImageReference, parse_source
from crfs.image.trace import Touch, encode_trace

_ACTIONS = {
    "push": "attach a trace to an image in a registry, where its mounts find it",
    "pull": "fetch the trace that is attached to an image",
}
_FILES = {
    "push": "what `crfs mount --record FILE` wrote; without it, what this machine has noted of the image",
    "pull": "where to write it (default: standard output)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this subcommand."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, help_ in _ACTIONS.items():
        sub = actions.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        add_source_options(sub)
        sub.add_argument("file", metavar="FILE", nargs="?", type=Path, help=_FILES[name])
        add_log_options(sub)


def run(args: argparse.Namespace) -> int:
    """Push or pull; any CrfsError."""
    # late: all that follows needs the network
    from crfs.cli.compose_trace import pull, push
    from crfs.cli.services import open_services, settings_of

    configure_log(args.log_level, "crfs")
    source = parse_source(args.source)
    if not isinstance(source, ImageReference):
        raise UsageError(f"{args.source}: a trace is attached to an image in a registry")
    settings = settings_of(args)
    services = open_services(settings)
    try:
        if args.action == "push":
            print(push(services, settings, source, args.file))
        else:
            _write(pull(services, settings, source), args.file)
    finally:
        services.close()
    return 0


def _write(touches: list[Touch], path: Path | None) -> None:
    body = encode_trace(touches)
    if path is None:
        sys.stdout.buffer.write(body)
        return
    try:
        path.write_bytes(body)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
