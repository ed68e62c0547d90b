"""`crfs cache ls|prune|verify|clear`: what the disk cache holds, and what is to go. Mounts may go on meanwhile."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from crfs.blobs.directories import cache_directory
from crfs.blobs.documents import Documents
from crfs.blobs.eviction import (
    EVICTABLE,
    Entry,
    Limits,
    default_limits,
    entry_path,
    evict,
    iter_entries,
    remove_entry,
)
from crfs.blobs.objects import PARTS_SUFFIX
from crfs.blobs.store import Store, open_store
from crfs.cli.options import add_limit_options
from crfs.errors import CrfsError, UsageError
from crfs.formats.digest import check_hash, parse_digest
from crfs.image.kept import check_tree

_PARTS = (*EVICTABLE, "documents", "refs", "traces")
_PIECE = 1 << 20
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Report = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this subcommand."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, help_ in (
        ("ls", "what is in the cache"),
        ("prune", "remove what was used longest ago"),
        ("verify", "hash everything, and remove what is damaged"),
        ("clear", "remove everything that no mount needs"),
    ):
        sub = actions.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        sub.add_argument(
            "--cache", metavar="DIR", type=Path, help="the cache (default: $XDG_CACHE_HOME/crfs)"
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        if name in ("ls", "prune"):
            add_limit_options(sub)
        if name == "prune":
            sub.add_argument(
                "--older-than",
                metavar="AGE",
                type=_parse_age,
                help="also what was not used for so long (12h, 30d)",
            )


def _parse_age(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS):
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 90m, 12h or 30d")
    return float(number) * _UNITS[unit]


def run(args: argparse.Namespace) -> int:
    """Do it and print the report; 1 where something was damaged. CrfsError where there is no cache."""
    root = (args.cache or cache_directory()).absolute()
    if not root.is_dir():
        raise UsageError(f"{root}: there is no cache here")
    store = open_store(root)
    actions: dict[str, Callable[[Store, argparse.Namespace], Report]] = {
        "ls": _list,
        "prune": _prune,
        "verify": _verify,
        "clear": _clear,
    }
    try:
        report = {"cache": str(root), **actions[args.action](store, args)}
    except OSError as error:
        raise CrfsError(f"{root}: {error.strerror}") from error
    finally:
        store.close()
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    else:
        _print(report)
    return 1 if report.get("damaged") else 0


def _limits(store: Store, args: argparse.Namespace) -> Limits:
    return default_limits(store.directory.root, args.cache_size, args.cache_free)


def _list(store: Store, args: argparse.Namespace) -> Report:
    root = store.directory.root
    parts = {part: list(iter_entries(root, part)) for part in _PARTS}
    names: dict[str, list[str]] = {}
    for name, digest in Documents(store.directory).iter_refs():
        names.setdefault(digest, []).append(name)
    pinned = store.directory.pinned()
    limits = _limits(store, args)
    return {
        "size": sum(entry.size for entries in parts.values() for entry in entries),
        "limit": limits.size,
        "keep-free": limits.free,
        "parts": {
            part: {"entries": len(entries), "size": sum(entry.size for entry in entries)}
            for part, entries in parts.items()
        },
        "images": [
            {
                "digest": (digest := entry.name.partition("/")[2].replace("-", ":")),
                "names": sorted(names.get(digest, [])),
                "tree-size": entry.size,
                "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.used_ns / 1e9)),
                "mounted": entry.name in pinned,
            }
            for entry in sorted(parts["trees"], reverse=True)
        ],
    }


def _prune(store: Store, args: argparse.Namespace) -> Report:
    older_ns = time.time_ns() - int(args.older_than * 1e9) if args.older_than is not None else 0
    done = evict(store.directory, _limits(store, args).size, older_ns)
    return {"removed-entries": done.entries, "removed": done.removed, "left": done.left}


def _clear(store: Store, args: argparse.Namespace) -> Report:
    done = evict(store.directory, 0)
    small = [
        entry
        for part in ("documents", "refs", "traces")
        for entry in iter_entries(store.directory.root, part)
    ]
    gone = [entry for entry in small if remove_entry(store.directory, entry)]
    return {
        "removed-entries": done.entries + len(gone),
        "removed": done.removed + sum(entry.size for entry in gone),
        "left": done.left,
    }


def _verify(store: Store, args: argparse.Namespace) -> Report:
    root = store.directory.root
    checked = size = 0
    damaged = []
    for entry in (entry for part in (*EVICTABLE, "documents") for entry in iter_entries(root, part)):
        checked, size = checked + 1, size + entry.size
        try:
            _check(store, entry)
        except FileNotFoundError:
            continue
        except (CrfsError, OSError):
            damaged.append(entry.name)
            remove_entry(store.directory, entry)
    return {"checked": checked, "size": size, "damaged": sorted(damaged)}


def _check(store: Store, entry: Entry) -> None:
    """DigestMismatch, FormatError or OSError unless an entry is what its name says.

    What is made from others, and says nothing of itself, goes: it is made anew.
    """
    part, _, leaf = entry.name.partition("/")
    path = entry_path(store.directory.root, entry.name)
    if part == "images" or leaf.endswith(PARTS_SUFFIX):
        remove_entry(store.directory, entry)
        return
    if part == "trees":
        check_tree(store, entry.name)
        return
    digest = f"sha256:{leaf}" if part in ("chunks", "objects") else leaf.replace("-", ":")
    hasher = parse_digest(digest).hasher()
    for piece in _pieces(path, skip_line=part == "documents"):
        hasher.update(piece)
    check_hash(hasher, digest, str(path))


def _pieces(path: Path, *, skip_line: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        if skip_line:
            file.readline()
        while piece := file.read(_PIECE):
            yield piece


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.filesize import decimal

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for key, value in report.items():
        if key == "parts":
            for part, found in value.items():
                console.print(f"{part + ':':17} {found['entries']} entries, {decimal(found['size'])}")
        elif key == "images":
            for image in value:
                mounted = ", mounted" if image["mounted"] else ""
                console.print(f"{image['digest']} used {image['used']}{mounted} {' '.join(image['names'])}")
        elif key == "damaged":
            console.print(f"{key + ':':17} {len(value)} entries, which are gone now")
            for name in value:
                console.print(f"  {name}")
        else:
            is_size = key in ("size", "limit", "keep-free", "removed", "left")
            console.print(f"{key + ':':17} {decimal(value) if is_size else value}")
