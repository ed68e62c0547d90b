"""The options of `crfs run`, which are podman's, and what they wish for."""

import argparse
import json
import os
from pathlib import Path

from crfs.cli.handedover import NO_SERVER
from crfs.errors import UsageError
from crfs.integrations.runtime.bundle import Volume, Wish
from crfs.integrations.runtime.spec import ConsoleSize
from crfs.mount.engines.choice import AUTO, NAMES


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """All that say how the container is to be, and what makes it."""
    _add_environment(parser)
    _add_terminal(parser)
    _add_life(parser)
    _add_machinery(parser)


def _add_environment(parser: argparse.ArgumentParser) -> None:
    """What the program is, and what it finds around it."""
    add = parser.add_argument
    add(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable of the environment; without a value, it has that of crfs's own",
    )
    add(
        "-v",
        "--volume",
        metavar="PATH:PATH[:ro]",
        action="append",
        default=[],
        help="bind a file or directory of this machine (first) into the container",
    )
    add("-w", "--workdir", metavar="DIR", help="the working directory, made if it is missing")
    add("-u", "--user", metavar="USER[:GROUP]", help="who runs it: names of the image's, or ids")
    add(
        "--entrypoint",
        metavar="PROGRAM",
        help="instead of the image's entrypoint and command: a program, or a list as JSON",
    )
    add(
        "--net",
        "--network",
        choices=["host", "none"],
        default="host",
        help="this machine's network (host, the default), or the loopback alone (none)",
    )
    add(
        "--read-only",
        action="store_true",
        help="the root can't be written; /run, /tmp and /var/tmp are empty",
    )


def _add_terminal(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-t", "--tty", action="store_true", help="give it a terminal; ours has to be standard input")
    add("-i", "--interactive", action="store_true", help="give it our standard input")
    add(
        "--progress",
        action="store_true",
        help="on a terminal, a line that tells what has been fetched; not with -t",
    )


def _add_life(parser: argparse.ArgumentParser) -> None:
    """What is left of it, and how it ends."""
    add = parser.add_argument
    add(
        "--name",
        help="what it is called; what it changes is kept, and is there in the next run of that name",
    )
    add("--rm", dest="remove", action="store_true", help="drop what it changes, also with --name")
    add(
        "--stop-timeout",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="on SIGTERM it is told to stop by the image's stop signal, and killed after so long (default 10)",
    )


def _add_machinery(parser: argparse.ArgumentParser) -> None:
    """What runs it, and what carries its mount."""
    add = parser.add_argument
    add("--runtime", metavar="PROGRAM", help="what runs it: crun or runc (default: the one that there is)")
    add("--engine", choices=NAMES, default=AUTO, help="what carries the mount; see 'crfs mount --help'")
    add(
        NO_SERVER,
        dest="server",
        action="store_false",
        help="start from nothing, and leave no process behind that makes the next mounts quicker",
    )
    add("--log-file", metavar="FILE", type=Path, help="where the mount's daemon logs to; see 'crfs mount'")


def wish_of(args: argparse.Namespace) -> Wish:
    """What the options say; UsageError."""
    if args.workdir is not None and not args.workdir.startswith("/"):
        raise UsageError(f"--workdir {args.workdir}: it is no absolute path")
    if args.tty and not os.isatty(0):
        raise UsageError("--tty: our standard input is no terminal")
    return Wish(
        tuple(args.command_words),
        _entrypoint(args.entrypoint),
        dict(pair for text in args.env for pair in _variable(text)),
        tuple(map(parse_volume, args.volume)),
        args.workdir,
        args.user,
        args.net == "host",
        args.read_only,
        _size() if args.tty else None,
    )


def _size() -> ConsoleSize:
    width, height = os.get_terminal_size(0)
    return ConsoleSize(height, width)


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    """JSON where it is a list of strings, else one word; an empty one is none at all."""
    if text is None or not text:
        return None if text is None else ()
    try:
        found = json.loads(text)
    except ValueError:
        return (text,)
    return (
        tuple(found) if isinstance(found, list) and all(isinstance(word, str) for word in found) else (text,)
    )


def _variable(text: str) -> list[tuple[str, str]]:
    """NAME=VALUE, or NAME for what is in our environment; nothing where it isn't."""
    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f"--env {text}: it names no variable")
    if equals:
        return [(name, value)]
    return [(name, os.environ[name])] if name in os.environ else []


def parse_volume(text: str) -> Volume:
    """SOURCE:DESTINATION[:ro|rw]; UsageError."""
    source, _, rest = text.partition(":")
    destination, _, options = rest.partition(":")
    if not source.startswith((".", "/")) or not destination.startswith("/"):
        raise UsageError(f"--volume {text}: it has to be PATH:PATH[:ro], the second one absolute")
    if options not in ("", "ro", "rw"):
        raise UsageError(f"--volume {text}: {options!r} is neither ro nor rw")
    where = os.path.normpath(destination)
    if where == "/":
        raise UsageError(f"--volume {text}: the root can't be bound over")
    if not os.path.exists(source):
        raise UsageError(f"--volume {text}: there is no {source}")
    return Volume(os.path.realpath(source), where, options == "ro")
