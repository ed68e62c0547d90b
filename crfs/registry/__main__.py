"""`python -m crfs.registry`: the registry as a program, until SIGINT or SIGTERM."""

import argparse
import os
import signal
import sys
from pathlib import Path

from crfs.errors import CrfsError
from crfs.registry.server import Registry

PASSWORD_VARIABLE = "CRFS_REGISTRY_PASSWORD"


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal; 0, or 1 where it can't listen."""
    args = _build_parser().parse_args(argv)
    host, _, port = args.listen.rpartition(":")
    signals = {signal.SIGINT, signal.SIGTERM}
    # before the thread starts, so that the thread has them blocked too and sigwait gets them
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    credentials = (args.user, os.environ.get(PASSWORD_VARIABLE, "")) if args.user else None
    registry = Registry(args.root, host=host.strip("[]"), port=int(port), credentials=credentials)
    try:
        registry.start()
    except CrfsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{registry.address}\n")
    sys.stdout.flush()
    signal.sigwait(signals)
    registry.close()
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m crfs.registry", description="An OCI registry. Prints its address once it listens."
    )
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:0", type=_check_listen)
    parser.add_argument("--root", metavar="DIR", type=Path, help="keep everything there (default: in memory)")
    parser.add_argument(
        "--user", metavar="NAME", help=f"ask for this user, and the password that ${PASSWORD_VARIABLE} holds"
    )
    return parser


def _check_listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


if __name__ == "__main__":
    sys.exit(main())
