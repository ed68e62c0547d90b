"""`crfs status [DIR]`: what is mounted, by which engine, and what has been fetched and waited for."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crfs.errors import MountError
from crfs.image.report import LayerReport, Report
from crfs.mount.mountpoint import resolve
from crfs.mount.status import Health, MountStatus, iter_status

if TYPE_CHECKING:
    from rich.console import Console

_SAID = {
    Health.SILENT: "its process does not answer",
    Health.LOST: "its process is gone: what has not arrived can't be read until it is unmounted and mounted again",
    Health.FOREIGN: "served by a process of somebody else's",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    parser.add_argument("dir", metavar="DIR", nargs="?", type=Path, help="a mountpoint: all of it, by layer")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print it; MountError where nothing is mounted at DIR. The status is 0 also where a mount is lost."""
    only = None if args.dir is None else resolve(args.dir)
    found = list(iter_status(only))
    if only is not None and not found:
        raise MountError(f"{args.dir}: no image is mounted here")
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    elif only is None:
        _print_all(found)
    else:
        _print_one(found[0])
    return 0


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # names are not folded for a program
        console.width = 10_000
    return console


def _print_all(found: Sequence[MountStatus]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("DIR", "IMAGE", "ENGINE"):
        table.add_column(heading, overflow="fold")
    for heading in ("SIZE", "FETCHED", "READ", "REQUESTS", "STALLS", "WAITED"):
        table.add_column(heading, justify="right", no_wrap=True)
    for mount in found:
        engine = mount.engine if mount.health is Health.RUNNING else mount.health.value
        table.add_row(mount.mountpoint, mount.source, engine, *_figures(mount.report))
    _console().print(table)


def _figures(report: Report | None) -> list[str]:
    from rich.filesize import decimal

    if report is None:
        return ["-"] * 6
    sizes = [decimal(size) for size in (report.size, report.fetched, report.cached + report.waited)]
    return [*sizes, str(report.requests), str(report.stalls.count), f"{report.stalls.seconds:.2f} s"]


def _print_one(mount: MountStatus) -> None:
    from rich.filesize import decimal

    console = _console()
    report = mount.report
    rows = {"Image": mount.source, "Digest": report.digest if report else None}
    rows |= {"Engine": mount.engine, "Upper": mount.upper, "Process": str(mount.pid) if mount.pid else None}
    if report is not None:
        share = f" ({report.fetched / report.size:.1%} of {decimal(report.size)})" if report.size else ""
        rows["Fetched"] = f"{decimal(report.fetched)}{share} in {report.requests} requests"
        rows["Retried"] = str(report.retries)
        rows["Read"] = (
            f"{decimal(report.cached)} that were here, {decimal(report.waited)} that were waited for"
        )
        rows["Stalls"] = f"{report.stalls.count}, {report.stalls.seconds:.2f} s in all"
    for name, text in rows.items():
        if text:
            console.print(f"{name + ':':<9}", text, soft_wrap=True)
    for engine, reason in mount.passed_over.items():
        console.print(f"not by {engine}: {reason}", soft_wrap=True)
    if mount.health in _SAID:
        console.print(_SAID[mount.health], soft_wrap=True)
    if report is not None:
        _print_layers(console, report.layers)


def _print_layers(console: "Console", layers: Sequence[LayerReport]) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("LAYER", "FORMAT", "LAZY"):
        table.add_column(heading, no_wrap=True)
    for heading in ("SIZE", "FETCHED", "READ", "WAITED FOR"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        size = "-" if layer.size is None else decimal(layer.size)
        read = [decimal(number) for number in (layer.fetched, layer.cached + layer.waited, layer.waited)]
        name = layer.digest[7:19] if layer.digest.startswith("sha256:") else layer.digest
        table.add_row(name, layer.format, "yes" if layer.lazy else "no", size, *read)
    console.print(table)
