"""`crfs mount` with an upper directory, or several lower trees: checked before anything is fetched."""

import argparse
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from crfs.cli.lowers import Named, OpenLowers, directories, parse_lower, shown_name
from crfs.cli.options import metrics_of
from crfs.cli.overlay import open_overlay
from crfs.cli.services import settings_of
from crfs.errors import UsageError
from crfs.formats.reference import Source
from crfs.fuse.session import interruptible
from crfs.fuse.view import PLAIN_VIEW
from crfs.fuse.writable import Writable
from crfs.integrations.crfsplugin import CrfsLower
from crfs.mount.engines.choice import Choice, EngineName
from crfs.mount.fuse import MountRequest
from crfs.mount.memory import settle
from crfs.mount.writable import serve_overlay, workers_for
from crfs.overlay.lower import ImageLower, Lower
from crfs.overlay.overlay import check_directories
from crfs.overlay.spec import UpperSpec


class Stack(Struct, frozen=True):
    """Lower trees, topmost first, and where changes go; without `spec` the mount is read-only."""

    lowers: tuple[Named, ...]
    spec: UpperSpec | None

    @property
    def image(self) -> bool:
        """Whether an image is all there is below."""
        return len(self.lowers) == len(self.images) == 1

    @property
    def images(self) -> list[Source]:
        """What of it is no directory."""
        return [lower.source for lower in self.lowers if isinstance(lower, CrfsLower)]


def stack_of(args: argparse.Namespace) -> Stack:
    """What `--lower`, SOURCE, `--upper` and `--work` name; UsageError, MountError."""
    lowers = tuple(parse_lower(text) for text in (*args.lower, args.source))
    if args.upper is None and args.work is None:
        return Stack(lowers, None)
    if args.upper is None or args.work is None:
        raise UsageError("--upper and --work go together")
    upper, work = os.fsencode(args.upper.absolute()), os.fsencode(args.work.absolute())
    spec = UpperSpec(upper, work, fresh=args.new_upper)
    check_directories(spec, directories(lowers))
    return Stack(lowers, spec)


def serve_stack(
    args: argparse.Namespace,
    where: Path,
    options: tuple[str, ...],
    stack: Stack,
    choice: Choice,
    ready: Callable[[], None],
) -> None:
    """Serve lower trees, under an upper directory if there is one, until unmounted."""
    with contextlib.closing(OpenLowers(settings_of(args))) as opened:
        with interruptible():
            trees = [opened.open(lower) for lower in stack.lowers]
        settle()
        request = MountRequest(
            where,
            shown_name(stack.lowers[-1]),
            options,
            writable=stack.spec is not None,
            lowers=tuple(opened.sources),
            upper=None if stack.spec is None else os.fsdecode(stack.spec.upperdir),
            choice=choice,
            report=opened.report if opened.images else None,
        )
        if stack.spec is not None and choice.engine is not EngineName.FUSE:
            # what a crash has left half-done is nothing that the kernel's would do
            open_overlay(trees, stack.spec).close()
        with metrics_of(args.metrics, request):
            if choice.engine is EngineName.OVERLAY and stack.spec is not None:
                _serve_below(trees, request, stack.spec, ready, opened.stop)
            else:
                serve_overlay(open_overlay(trees, stack.spec), request, ready, opened.stop)


def _serve_below(
    trees: list[Lower],
    request: MountRequest,
    spec: UpperSpec,
    ready: Callable[[], None],
    stop: Callable[[], None],
) -> None:
    """With the kernel's overlayfs on top."""
    from crfs.fuse.lowertree import LowerTree
    from crfs.mount.engines.overlay import Top, serve_under_overlay

    def top(place: Path, until_end: contextlib.ExitStack) -> Top:
        return Top(request, spec, place, until_end)

    match trees:
        case [ImageLower() as image]:
            serve_under_overlay(LowerTree(image.tree, image.reader), request, top, ready, stop)
        case _:
            merged = open_overlay(trees, None)
            operations = Writable(merged, PLAIN_VIEW)
            serve_under_overlay(operations, request, top, ready, stop, workers_for(merged))
