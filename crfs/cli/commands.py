"""What the command `crfs` does: finds the subcommand and turns every failure into one line and an exit status.

Exit status: 0, 1 for a failure, 2 for a wrong use. Subcommands are imported when they are called.
"""

import argparse
import functools
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from crfs import __version__
from crfs.errors import CrfsError, UsageError

# loading modules and indexing layers makes hundreds of thousands of objects that stay, and few cycles
_COLLECT_AFTER = 50_000

# a wrong use of a command whose exit status is mostly another program's
_WRONG_USES = {"run": 125}

COMMANDS = {
    "mount": "mount an image, read-only",
    "umount": "take a mount down",
    "status": "show what is mounted, and what has been fetched for it",
    "run": "run a program of an image, which is mounted for it",
    "convert": "convert an image, for example to a format that is read lazily",
    "commit": "put what was changed in a writable mount on top of its image, as a layer",
    "inspect": "show how each layer of an image can be read",
    "trace": "attach to an image what its start reads, so that it is fetched ahead everywhere",
    "cache": "look at the cache, trim, verify or empty it",
    "demo": "mount and run a small image from a registry of its own",
}


@functools.cache
def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the options of the subcommand that is about to run are added.

    It takes longer to make than all else that a mount does: a warm process has it.
    """
    parser = argparse.ArgumentParser(
        prog="crfs",
        description="Mount container images straight from their registry: bytes are fetched as they are read",
        epilog="'crfs COMMAND --help' tells more. 'mount -t fuse.crfs SOURCE DIR' works as well.",
    )
    parser.add_argument("-v", "--version", action="version", version=f"crfs version {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            importlib.import_module(f"crfs.cli.{name}").configure(sub)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run a command line, without the program's name; the exit status."""
    gc.set_threshold(_COLLECT_AFTER)
    command = next((word for word in arguments if not word.startswith("-")), None)
    try:
        args = build_parser(command).parse_args(arguments)
    except SystemExit as end:
        if end.code not in (0, 2):
            # not argparse's: a signal
            raise
        return _WRONG_USES.get(command or "", 2) if end.code else 0
    try:
        return int(importlib.import_module(f"crfs.cli.{args.command}").run(args))
    except CrfsError as error:
        # one line, whatever a path has in it
        print("crfs:", str(error).replace("\n", "\\n"), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # whoever read our output has seen enough; nothing may be written to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
