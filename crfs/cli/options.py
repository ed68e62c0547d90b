"""Options that several subcommands share: where images come from, where bytes are kept, what is logged."""

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crfs.errors import UsageError
from crfs.mount.engines.choice import NAMES

if TYPE_CHECKING:
    from crfs.mount.fuse import MountRequest


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """SOURCE and how to reach it; names as skopeo and podman have them."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="docker://HOST[:PORT]/REPO[:TAG][@DIGEST], oci:DIR[:REF], or one layer blob: "
        "https://, http://, file://, or a path",
    )
    parser.add_argument(
        "--authfile", metavar="PATH", help="credentials, as containers-auth.json(5); else where podman looks"
    )
    parser.add_argument(
        "--tls-verify",
        metavar="BOOL",
        type=parse_bool,
        help="verify certificates and insist on HTTPS (default true, but see registries.conf)",
    )
    parser.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="which image of an index (default: this machine's)"
    )
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="read a stargz lazily although nothing ties its TOC to the manifest; it is checked later",
    )
    parser.add_argument(
        "--pull",
        choices=["newer", "missing"],
        default="newer",
        help="ask the registry what a tag names now (newer, the default), or only if it was never asked (missing)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="where fetched bytes are kept (default: $XDG_CACHE_HOME/crfs)",
    )
    add_limit_options(parser)


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """How much the cache may take up."""
    parser.add_argument(
        "--cache-size",
        metavar="SIZE",
        type=parse_size,
        help="what the cache may take up, as in 500M or 20GB (default: a tenth of its file system, at most 20GB)",
    )
    parser.add_argument(
        "--cache-free",
        metavar="SIZE",
        type=parse_size,
        help="what is left free on its file system (default: a twentieth of it, at most 1GiB)",
    )


def add_metrics_option(parser: argparse.ArgumentParser) -> None:
    """Where a mount can be watched."""
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS",
        help="answer with Prometheus metrics at unix:PATH or [HOST]:PORT for as long as it is mounted",
    )


@contextlib.contextmanager
def metrics_of(address: str | None, request: "MountRequest") -> Iterator[None]:
    """Have them answered there, if that is asked for; UsageError, MountError."""
    if address is None:
        yield
        return
    if request.report is None:
        raise UsageError("--metrics: no image is mounted that could be told of")
    # late: few ask for it, and it takes a while to load
    from crfs.mount.metrics import serving_metrics

    with serving_metrics(address, request, request.report):
        yield


def add_trace_options(parser: argparse.ArgumentParser) -> None:
    """What is fetched before a program asks, and what is noted for the next time."""
    parser.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        help="note what is read first, and merge it into FILE at the end",
    )
    parser.add_argument(
        "--trace", metavar="FILE", type=Path, help="fetch ahead what FILE says (see --record)"
    )
    parser.add_argument(
        "--no-trace",
        action="store_false",
        dest="traces",
        help="neither keep the trace of an image's first minute beside the cache, nor use it or the one that is "
        "attached to the image (see 'crfs trace')",
    )


def add_background_options(parser: argparse.ArgumentParser) -> None:
    """What is fetched while nobody reads."""
    parser.add_argument(
        "--background-fetch",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fetch the rest of the image once nothing has been waited for in 10 seconds (the default)",
    )
    parser.add_argument(
        "--background-rate",
        metavar="RATE",
        type=parse_size,
        help="no more bytes per second than this for the rest of the image, as in 500K or 10M",
    )


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """How much is logged."""
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warn", "error"],
        default="warn",
        help="log messages at and above this level (default warn)",
    )


def configure_log(level: str, who: str, log: int | None = None) -> None:
    """Log to the file descriptor `log`, or to stderr; `who` begins each message."""
    stream = None if log is None else os.fdopen(log, "w", 1, errors="backslashreplace", closefd=False)
    logging.basicConfig(
        stream=stream,
        format=f"%(asctime)s {who.replace('%', '%%')}: %(levelname)s: %(message)s",
        level={"warn": "WARNING"}.get(level, level.upper()),
    )


def open_log(path: Path) -> int:
    """A file to log to, for a daemon; where there can't be one, nothing will be logged, and that is said."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        print(f"crfs: {path}: {error.strerror}; nothing will be logged", file=sys.stderr)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def parse_size(text: str) -> int:
    """Bytes: a number, and K, M, G or T for powers of 1000, with an i (KiB, ...) for powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M or 20GB")
    number, unit, binary = match.groups()
    power = " KMGT".index((unit or " ").upper())
    return int(float(number) * (1024 if binary else 1000) ** power)


def parse_engine(text: str) -> str:
    """The name of an engine, or `auto`."""
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NAMES)}")
    return text


def parse_bool(text: str) -> bool:
    """A boolean as Go's flag package reads it, so that podman's and skopeo's habits work."""
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
