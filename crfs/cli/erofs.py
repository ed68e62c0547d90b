"""Serves an image by the erofs engine. Not imported by who uses another."""

import argparse
import contextlib
from collections.abc import Callable

from msgspec.structs import replace

from crfs.blobs.objects import drop_old, open_objects
from crfs.cli.compose import OpenedImage
from crfs.cli.services import Services
from crfs.errors import CrfsError, EngineRefused
from crfs.fuse.contenttree import ContentTree
from crfs.image.arrived import Arrived
from crfs.image.treeimage import contents_of, tree_image
from crfs.mount.engines.choice import AUTO, fallen_back
from crfs.mount.engines.erofs import Below, serve_over_contents
from crfs.mount.fuse import MountRequest
from crfs.overlay.overlay import UpperSpec

# how long a mount waits for a look at a cache of very many files, which then goes on beside it
_LOOK_SECONDS = 0.5


def serve_by_erofs(
    services: Services,
    image: OpenedImage,
    request: MountRequest,
    spec: UpperSpec | None,
    ready: Callable[[], None],
    stop: Callable[[], None],
    *,
    sees_reads: bool = False,
) -> None:
    """Serve an image, with changes over it or none, until it is unmounted; EngineRefused where that can't be done.

    `sees_reads`: what has arrived is read by way of us all the same, and so is known.
    """
    tree, layers, store = image.tree, image.layers, services.store
    contents = contents_of(tree, layers)
    if not sees_reads:
        store.objects = open_objects(store.directory)
        services.idle.submit(drop_old, store.directory)
    looked = None if store.objects is None else services.pool.submit(store.objects.drop_changed)
    arrived = Arrived(tree, contents, layers, store, services.idle)
    operations = ContentTree(tree, contents, image.reader, arrived.read_out)
    with contextlib.ExitStack() as until_end:
        try:
            path = until_end.enter_context(
                tree_image(store, image.name, image.digest, tree, layers, contents)
            )
        except CrfsError as error:
            raise EngineRefused(str(error)) from error
        if looked is not None:
            with contextlib.suppress(TimeoutError):
                looked.result(_LOOK_SECONDS)
        below = Below(path, None if store.objects is None else store.objects.root)
        serve_over_contents(operations, below, request, spec, ready, stop)


def may_fall_back(args: argparse.Namespace, request: MountRequest, error: EngineRefused) -> MountRequest:
    """The same by the engine that can always be had, unless this one was asked for: then EngineRefused."""
    if args.engine != AUTO:
        raise EngineRefused(f"the engine {args.engine} can't be used: {error}") from error
    return replace(request, choice=fallen_back(request.choice, error))
