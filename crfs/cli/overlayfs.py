"""The command `crfs-overlayfs`. It is handed over to a warm process, if there is one, before more is loaded."""

import sys
from _collections_abc import Sequence

from crfs.cli.handedover import OVERLAYFS, run_or_hand_over


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Our own, which is not given, may be run by a warm process."""
    if argv is None:
        run_or_hand_over(OVERLAYFS, sys.argv[1:], _run)
    return _run(sys.argv[1:] if argv is None else argv)


def _run(arguments: Sequence[str]) -> int:
    from crfs.cli.overlaycommand import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
