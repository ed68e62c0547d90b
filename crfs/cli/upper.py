"""The writable layer of `crfs mount`: checked before anything is fetched, served in the place of the image."""

import argparse
import os
from collections.abc import Callable

from crfs._native.index import Tree
from crfs.errors import UsageError
from crfs.image.reader import ImageReader
from crfs.mount.fuse import MountRequest
from crfs.mount.writable import serve_overlay
from crfs.overlay.lower import ImageLower
from crfs.overlay.overlay import Overlay, UpperSpec, check_directories


def upper_spec(args: argparse.Namespace) -> UpperSpec:
    """The directories that `--upper` and `--work` name; UsageError, MountError."""
    if args.upper is None or args.work is None:
        raise UsageError("--upper and --work go together")
    spec = UpperSpec(
        os.fsencode(args.upper.absolute()), os.fsencode(args.work.absolute()), userxattr=os.geteuid() != 0
    )
    check_directories(spec, [])
    return spec


def serve_writable(
    tree: Tree, reader: ImageReader, spec: UpperSpec, request: MountRequest, ready: Callable[[], None]
) -> None:
    """Serve an image under its upper directory until it is unmounted."""
    overlay = Overlay([ImageLower(tree, reader)], spec)
    serve_overlay(overlay, request, ready, reader.stop)
