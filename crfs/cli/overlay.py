"""Serves what crfs-overlayfs was asked for: opens the lower trees, images among them, and the overlay over them."""

import contextlib
import os
from collections.abc import Callable

from crfs.cli.lowers import OpenLowers, directories
from crfs.cli.services import Settings
from crfs.errors import MountError
from crfs.fuse.session import block_signals, interruptible
from crfs.fuse.view import SAME, View
from crfs.integrations.idmap import load_overflow_ids
from crfs.integrations.overlayrequest import OverlayRequest, RedirectDir, Xino, id_maps, libfuse_options
from crfs.mount.fuse import MountRequest
from crfs.mount.memory import settle, tame_malloc
from crfs.mount.mountpoint import claim
from crfs.mount.writable import serve_overlay as serve
from crfs.overlay.lower import Lower
from crfs.overlay.overlay import Overlay, check_directories
from crfs.overlay.spec import UpperSpec


def serve_overlay(request: OverlayRequest, ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted; `ready` is called when it answers. Any CrfsError."""
    where = claim(request.mountpoint, nonempty=True)
    spec = _upper_spec(request)
    tame_malloc()
    block_signals()
    with contextlib.closing(OpenLowers(Settings(allow_unverified=True))) as opened:
        with interruptible():
            lowers = [opened.open(lower) for lower in request.lowers]
        settle()
        # libfuse 3 mounts over what a directory holds without being asked
        options = (*libfuse_options(request, root=os.geteuid() == 0), "nonempty")
        mount = MountRequest(
            where,
            "crfs-overlayfs",
            options,
            writable=not request.read_only,
            threaded=request.threaded,
            lowers=tuple(opened.sources),
            upper=None if spec is None else os.fsdecode(spec.upperdir),
            report=opened.report if opened.images else None,
        )
        serve(open_overlay(lowers, spec, _number_bits(request)), mount, ready, opened.stop, _view(request))


def _upper_spec(request: OverlayRequest) -> UpperSpec | None:
    if request.upperdir is None or request.workdir is None:
        return None
    spec = UpperSpec(
        os.fsencode(request.upperdir),
        os.fsencode(request.workdir),
        userxattr=request.userxattr,
        volatile=request.volatile or not request.fsync,
        permissions=request.xattr_permissions,
        squashed=request.squash_uid is not None or request.squash_gid is not None,
        redirects=request.redirect_dir is RedirectDir.ON,
    )
    check_directories(spec, directories(request.lowers))
    return spec


def open_overlay(lowers: list[Lower], spec: UpperSpec | None, number_bits: int | None = None) -> Overlay:
    """MountError where the directories of `spec` can't be used."""
    try:
        return Overlay(lowers, spec, number_bits)
    except OSError as error:
        raise MountError(f"{error.filename or 'the upper directory'}: {error.strerror}") from error


def _number_bits(request: OverlayRequest) -> int | None:
    if request.ino32:
        return 32
    return 64 if request.xino is Xino.OFF else None


def _view(request: OverlayRequest) -> View:
    uids, gids = id_maps(request, load_overflow_ids())
    return View(
        SAME if uids.is_identity else uids,
        SAME if gids.is_identity else gids,
        request.static_nlink,
        xattrs=not request.noxattrs,
        timeout_seconds=request.timeout,
    )
