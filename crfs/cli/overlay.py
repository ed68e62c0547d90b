"""Serves what crfs-overlayfs was asked for: opens the lower trees, images among them, and the overlay over them."""

import contextlib
import os
from collections.abc import Callable

from crfs.cli.compose import Services, Settings, open_services, read_tree, resolve
from crfs.errors import MountError, UsageError
from crfs.fuse.session import block_signals, interruptible
from crfs.fuse.view import View
from crfs.image.reader import ImageReader
from crfs.integrations.crfsplugin import CrfsLower
from crfs.integrations.idmap import load_overflow_ids
from crfs.integrations.overlayrequest import DirectoryLower, OverlayRequest, id_maps, libfuse_options
from crfs.integrations.overridestat import XattrPermissions
from crfs.mount.fuse import MountRequest
from crfs.mount.memory import settle, tame_malloc
from crfs.mount.mountpoint import claim
from crfs.mount.writable import serve_overlay as serve
from crfs.overlay.lower import ImageLower, Lower, open_directory
from crfs.overlay.overlay import Overlay, UpperSpec, check_directories


def serve_overlay(request: OverlayRequest, ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted; `ready` is called when it answers. Any CrfsError."""
    if request.xattr_permissions is not XattrPermissions.OFF:
        raise UsageError("xattr_permissions is not supported")
    where = claim(request.mountpoint, nonempty=True)
    spec = _upper_spec(request)
    tame_malloc()
    block_signals()
    with contextlib.ExitStack() as opened:
        readers: list[ImageReader] = []
        with interruptible():
            lowers = _open_lowers(request, opened, readers)
        settle()
        # libfuse 3 mounts over what a directory holds without being asked
        options = (*libfuse_options(request, root=os.geteuid() == 0), "nonempty")
        mount = MountRequest(where, "crfs-overlayfs", options, writable=not request.read_only)
        overlay = _open_overlay(lowers, spec)

        def stop() -> None:
            for reader in readers:
                reader.stop()

        serve(overlay, mount, ready, stop, _view(request))


def _upper_spec(request: OverlayRequest) -> UpperSpec | None:
    directories = [os.fsencode(lower.path) for lower in request.lowers if isinstance(lower, DirectoryLower)]
    if request.upperdir is None or request.workdir is None:
        return None
    spec = UpperSpec(
        os.fsencode(request.upperdir),
        os.fsencode(request.workdir),
        userxattr=request.userxattr or os.geteuid() != 0,
        volatile=request.volatile or not request.fsync,
    )
    check_directories(spec, directories)
    return spec


def _open_lowers(
    request: OverlayRequest, opened: contextlib.ExitStack, readers: list[ImageReader]
) -> list[Lower]:
    """The lower trees, topmost first; images by way of one set of threads."""
    services: Services | None = None
    settings = Settings(allow_unverified=True)
    lowers: list[Lower] = []
    for lower in request.lowers:
        if isinstance(lower, CrfsLower):
            if services is None:
                services = open_services(settings)
                opened.callback(services.close)
            tree, reader = read_tree(services, resolve(services, settings, lower.source))
            readers.append(reader)
            lowers.append(ImageLower(tree, reader))
        else:
            lowers.append(_open_directory(lower))
    return lowers


def _open_directory(lower: DirectoryLower) -> Lower:
    try:
        return open_directory(os.fsencode(lower.path))
    except OSError as error:
        raise MountError(f"{lower.path}: {error.strerror}") from error


def _open_overlay(lowers: list[Lower], spec: UpperSpec | None) -> Overlay:
    try:
        return Overlay(lowers, spec)
    except OSError as error:
        raise MountError(f"{error.filename or 'the upper directory'}: {error.strerror}") from error


def _view(request: OverlayRequest) -> View:
    uids, gids = id_maps(request, load_overflow_ids())
    return View(
        uids, gids, request.static_nlink, xattrs=not request.noxattrs, timeout_seconds=request.timeout
    )
