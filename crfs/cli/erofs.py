"""Serves an image by the erofs engine. Not imported by who uses another."""

from collections.abc import Callable

from crfs.cli.compose import OpenedImage
from crfs.cli.services import Services
from crfs.fuse.contenttree import ContentTree
from crfs.image.treeimage import contents_of, tree_image
from crfs.mount.engines.erofs import serve_over_contents
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
    contents = contents_of(image.tree, image.layers)
    operations = ContentTree(image.tree, contents, image.reader)
    with tree_image(services.store, image.name, image.digest, image.tree, image.layers, contents) as path:
        serve_over_contents(operations, path, request, spec, ready, stop)
