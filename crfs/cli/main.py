"""The command `crfs`. A mount is handed over to a warm process, if there is one, before more than this is loaded."""

import sys
from _collections_abc import Sequence

from crfs.cli.handedover import run_or_hand_over


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Our own, which is not given, may be run by a warm process."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    if argv is None and arguments[:1] == ["mount"]:
        run_or_hand_over("crfs", arguments, _run)
    return _run(arguments)


def _arguments(argv: Sequence[str]) -> list[str]:
    """mount.fuse(8) calls us as `crfs SOURCE DIR -o ...`: without a subcommand, a source means mount."""
    first = argv[0] if argv else ""
    # no subcommand has such a name
    if not first.startswith("-") and (":" in first or "/" in first):
        return ["mount", *argv]
    return list(argv)


def _run(arguments: Sequence[str]) -> int:
    from crfs.cli.commands import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
