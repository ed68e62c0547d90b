"""What the command `crfs-overlayfs` does: a writable overlay, called as podman and everyone else call fuse-overlayfs.

Silent where it succeeds: it returns when the mount answers and leaves a daemon that serves it. A failure is one
line and exit status 1, a wrong use 2.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from crfs import __version__
from crfs.blobs.directories import log_directory
from crfs.cli.background import run_in_background
from crfs.cli.handedover import OVERLAYFS as PROGRAM
from crfs.cli.options import configure_log, open_log
from crfs.errors import CrfsError, UsageError
from crfs.integrations.fuseoverlayfs import parse_request, parse_words
from crfs.integrations.overlayrequest import OverlayRequest
from crfs.mount.daemon import Ready

# podman and buildah show all of it; other programs look for fuse-overlayfs's line and compare the number
VERSION = f"""\
{PROGRAM}: version {__version__}
fuse-overlayfs: version 1.10
"""
HELP = f"""\
usage: {PROGRAM} [options] <mountpoint>

    -h   --help                print help
    -V   --version             print version
    -f                         foreground operation
    -d   --debug   -o debug    foreground operation, with a log of everything

    -o lowerdir=DIR[:DIR...]   what is seen, topmost first; `\\:` is a colon in a name, and
                               //crfs/BASE64/PATH an image or a layer that is not fetched first:
                               BASE64 is that of docker://REF, https://URL, file://PATH or a path
    -o upperdir=DIR            takes all changes; without it the mount is read-only
    -o workdir=DIR             for use by the overlay, on the same file system as upperdir
    -o uidmapping=HOST:TO:LENGTH[:...]
    -o gidmapping=HOST:TO:LENGTH[:...]
                               ids on disk that show as others
    -o squash_to_root          every file shows as root's
    -o squash_to_uid=UID       every file shows as this user's
    -o squash_to_gid=GID       every file shows as this group's
    -o xattr_permissions=0|1|2
                               keep owner and mode in an xattr: security.* (1), user.* (2)
    -o userxattr               keep the overlay's marks in user.overlay.*, not trusted.overlay.*
    -o noxattrs=1              show no xattrs
    -o redirect_dir=on|off     rename directories of lower layers (default), or refuse to
    -o static_nlink            directories have one link
    -o xino=off|auto|on        inode numbers: those on disk as far as they differ (off), or such as
                               stay the same over mounts (default)
    -o ino32_t                 inode numbers have 32 bits
    -o noacl                   no POSIX ACLs
    -o timeout=SECONDS         how long the kernel keeps names and attributes
    -o writeback=0             no write-back cache
    -o fsync=0   -o volatile   nothing is synced to disk

    -o threaded=0              answer one request after the other

    fast_ino=, plugins= and context= are accepted, and the options of mount.fuse(8).
"""


def run(argv: Sequence[str]) -> int:
    """Run a command line, without the program's name; the exit status."""
    try:
        return _run(argv)
    except CrfsError as error:
        _say(str(error))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    words = parse_words(argv)
    if words.help or words.version:
        print(HELP if words.help else VERSION, end="")
        return 0
    request = parse_request(words, _cwd())
    for warning in request.warnings:
        _say(warning)
    if request.foreground:
        _configure_log(request)
        _serve(request, lambda: None)
    else:
        # before the fork, so that a warm process has it, too
        import_module("crfs.cli.overlay")
        run_in_background(lambda ready: _work(request, ready))
    return 0


def _cwd() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(f"the current directory: {error.strerror}") from error


def _work(request: OverlayRequest, ready: Ready) -> None:
    log = open_log(log_directory() / "mount.log")
    _configure_log(request, log)
    _serve(request, lambda: ready(log))


def _serve(request: OverlayRequest, ready: Callable[[], None]) -> None:
    """Mount and serve, in the process that stays."""
    from crfs.cli.overlay import serve_overlay

    serve_overlay(request, ready)


def _configure_log(request: OverlayRequest, log: int | None = None) -> None:
    configure_log("debug" if request.debug else "warn", f"{PROGRAM}[{os.getpid()}] {request.mountpoint}", log)


def _say(text: str) -> None:
    # one line, whatever a path has in it
    print(f"{PROGRAM}:", text.replace("\n", "\\n"), file=sys.stderr)
