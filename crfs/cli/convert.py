"""`crfs convert SRC DST`: an image in another format, from anywhere to anywhere."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crfs.cli.options import add_log_options, configure_log, parse_bool
from crfs.convert.lazylayer import CHUNK_SIZE
from crfs.convert.plan import LayerFormat, Plan, check_plan
from crfs.convert.wanted import Wanted, clean_globs, read_trace
from crfs.errors import UsageError
from crfs.formats.zstdchunked import Dialect

if TYPE_CHECKING:
    from crfs.convert.convert import Report

_DIALECTS = {"podman": Dialect.PODMAN, "stargz": Dialect.STARGZ}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this subcommand."""
    images = (
        "docker://HOST[:PORT]/REPO[:TAG], oci:DIR[:REF], docker-archive:FILE[:REF], oci-archive:FILE[:REF]"
    )
    parser.add_argument("source", metavar="SRC", help=f"{images}; a directory, or a layer's tar (one layer)")
    parser.add_argument("target", metavar="DST", help=f"{images}; or a file, for a single layer")
    add_format_options(parser)
    parser.add_argument(
        "--platform", metavar="P", help="OS/ARCH[/VARIANT]: which image (default: this machine's)"
    )
    parser.add_argument("--all-platforms", action="store_true", help="all images of an index, and the index")
    parser.add_argument("--flatten", action="store_true", help="make one layer of all")
    parser.add_argument("--keep-diff-id", action="store_true", help="leave the tar as it is, to the byte")
    parser.add_argument(
        "--rewrite",
        action="store_true",
        help="convert also what is in the format already (it is copied else)",
    )
    parser.add_argument("--dry-run", action="store_true", help="do it all, but write nothing")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_access_options(parser)
    add_log_options(parser)


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """How layers are written."""
    parser.add_argument(
        "--format",
        choices=[one.value for one in LayerFormat],
        default=LayerFormat.ESTARGZ.value,
        help="(default estargz)",
    )
    parser.add_argument(
        "--dialect", choices=list(_DIALECTS), default="podman", help="of zstd:chunked (default podman)"
    )
    parser.add_argument(
        "--compression-level",
        type=int,
        metavar="N",
        help="0 to 12 for gzip, 1 to 22 for zstd (default 6)",
    )
    parser.add_argument(
        "--chunk-size", type=parse_size, metavar="BYTES", default=CHUNK_SIZE, help="(default 4M)"
    )
    parser.add_argument(
        "--min-chunk-size",
        type=parse_size,
        metavar="BYTES",
        help="put small files together until there is so much: stargz-snapshotter reads that from 0.13 on "
        "(default 64K for estargz, 0 for formats whose readers can't)",
    )
    parser.add_argument("--external-toc", action="store_true", help="put TOCs into an image of their own")
    parser.add_argument("--jobs", type=int, metavar="N", help="threads that compress (default: one a core)")
    parser.add_argument(
        "--trace", metavar="FILE", type=Path, help="put the files that it lists first, to be prefetched"
    )
    parser.add_argument(
        "--prioritize",
        metavar="GLOB",
        action="append",
        default=[],
        help="put such files first (may be repeated)",
    )


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """How registries are reached."""
    parser.add_argument("--authfile", metavar="PATH", help="credentials, as containers-auth.json(5)")
    parser.add_argument(
        "--tls-verify",
        metavar="BOOL",
        type=parse_bool,
        help="verify certificates and insist on HTTPS (default true, but see registries.conf)",
    )


def parse_size(text: str) -> int:
    """A number of bytes, with K, M or G for powers of 1024."""
    unit = _UNITS.get(text[-1:].lower(), 1)
    digits = text[:-1] if unit > 1 else text
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(digits) * unit


def plan_of(args: argparse.Namespace) -> Plan:
    """What the options ask for; UsageError, UnsupportedError where that can't be."""
    wanted = None
    if args.trace is not None or args.prioritize:
        names = read_trace(args.trace) if args.trace is not None else ()
        wanted = Wanted(names, clean_globs(args.prioritize))
    if args.jobs is not None and args.jobs < 1:
        raise UsageError("--jobs has to be at least 1")
    plan = Plan(
        format=LayerFormat(args.format),
        dialect=_DIALECTS[args.dialect],
        level=args.compression_level,
        chunk_size=args.chunk_size,
        min_chunk_size=args.min_chunk_size,
        wanted=wanted,
        flatten=getattr(args, "flatten", False),
        keep_diff_id=getattr(args, "keep_diff_id", False),
        external_toc=args.external_toc,
        rewrite=getattr(args, "rewrite", False),
    )
    check_plan(plan)
    return plan


def run(args: argparse.Namespace) -> int:
    """Convert; any CrfsError."""
    plan = plan_of(args)
    if args.platform and args.all_platforms:
        raise UsageError("--platform names one of --all-platforms")
    # late: wrong uses answer before aiohttp is loaded
    from crfs.cli.compose_convert import Access, convert

    configure_log(args.log_level, "crfs")
    access = Access(args.authfile, args.tls_verify)
    report = convert(
        args.source,
        args.target,
        plan,
        access,
        jobs=args.jobs or os.cpu_count() or 1,
        platform=args.platform,
        all_platforms=args.all_platforms,
        dry_run=args.dry_run,
        quiet=args.json,
    )
    print_report(report, json=args.json, dry_run=args.dry_run)
    return 0


def print_report(report: "Report", *, json: bool, dry_run: bool = False) -> None:
    """As JSON, or as a summary of one line."""
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return
    from rich.filesize import decimal

    layers = [layer for image in report.images for layer in image.layers]
    source = sum(layer.source_size or layer.tar_size or 0 for layer in layers)
    size = sum(layer.descriptor.size for layer in layers)
    tar = sum(layer.tar_size or 0 for layer in layers)
    counts = {
        how: sum(layer.how == how for layer in layers) for how in ("converted", "copied", "mounted", "there")
    }
    how = ", ".join(f"{count} {how}" for how, count in counts.items() if count) or "no layers"
    rate = f", {decimal(int(tar / report.seconds))}/s of tar" if tar and report.seconds else ""
    told = "would be" if dry_run else "is"
    print(
        f"{report.target} {told} {report.digest}: {how}; {decimal(source)} became {decimal(size)} "
        f"in {report.seconds:.1f} s{rate}"
    )
