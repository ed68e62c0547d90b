"""`crfs inspect SOURCE`: for each layer, its format, whether it is read lazily and why not, and its sizes."""

import argparse
import sys

import msgspec

from crfs.cli.options import add_log_options, add_source_options, configure_log
from crfs.formats.reference import parse_source
from crfs.image.inspect import ImageReport, inspect_image, inspect_single


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    add_source_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_log_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; any CrfsError."""
    from crfs.cli.services import open_services, settings_of
    from crfs.cli.sources import submit_to_source

    configure_log(args.log_level, "crfs")
    settings = settings_of(args)
    services = open_services(settings)
    try:
        report = submit_to_source(
            services, settings, parse_source(args.source), inspect_image, inspect_single
        ).result()
    finally:
        services.close()
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    else:
        _print_table(report)
    return 0


def _print_table(report: ImageReport) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console(highlight=False, markup=False, width=max(Console().width, 96))
    table = Table(box=None, pad_edge=False)
    for heading in ("LAYER", "FORMAT", "LAZY", "VERIFIED"):
        table.add_column(heading, no_wrap=True)
    for heading in ("SIZE", "TOC", "ENTRIES", "CHUNKS", "FILES"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in report.layers:
        sizes = [
            "-" if size is None else decimal(size) for size in (layer.size, layer.toc_size, layer.file_bytes)
        ]
        counts = ["-" if count is None else str(count) for count in (layer.entries, layer.chunks)]
        lazy = "yes" if layer.lazy else "no"
        table.add_row(_short(layer.digest), layer.format, lazy, layer.verified, *sizes[:2], *counts, sizes[2])
    console.print(report.name, report.digest or "", soft_wrap=True)
    console.print(table)
    for layer in report.layers:
        if not layer.lazy:
            console.print(f"{_short(layer.digest)} is fetched whole: {layer.reason}", soft_wrap=True)


def _short(digest: str) -> str:
    """A digest as podman shows it; the name of a single blob as it is."""
    return digest[7:19] if digest.startswith("sha256:") else digest
