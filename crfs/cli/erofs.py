"""Serves an image by the erofs engine. Not imported by who uses another."""

from collections.abc import Callable

from crfs.blobs.objects import drop_old, open_objects
from crfs.cli.compose import OpenedImage
from crfs.cli.services import Services
from crfs.fuse.contenttree import ContentTree
from crfs.image.arrived import Arrived
from crfs.image.treeimage import contents_of, tree_image
from crfs.mount.engines.erofs import Below, serve_over_contents
from crfs.mount.fuse import MountRequest
from crfs.overlay.overlay import UpperSpec


def serve_by_erofs(
    services: Services,
    image: OpenedImage,
    request: MountRequest,
    spec: UpperSpec | None,
    ready: Callable[[], None],
    stop: Callable[[], None],
) -> None:
    """Serve an image, with changes over it or none, until it is unmounted."""
    tree, layers, store = image.tree, image.layers, services.store
    contents = contents_of(tree, layers)
    store.objects = open_objects(store.directory)
    services.idle.submit(drop_old, store.directory)
    arrived = Arrived(tree, contents, layers, store, services.idle)
    operations = ContentTree(tree, contents, image.reader, arrived.read_out)
    with tree_image(store, image.name, image.digest, tree, layers, contents) as path:
        below = Below(path, None if store.objects is None else store.objects.root)
        serve_over_contents(operations, below, request, spec, ready, stop)
