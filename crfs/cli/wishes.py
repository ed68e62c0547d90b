"""What a mount by the erofs engine is to be, told to the process that serves it; and which one that may be.

A server serves mounts of one cache that may have their process in common: who asks has the same identity (handover),
the same log, and the same environment, by which credentials and proxies are found. All else is each mount's own.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crfs.blobs.directories import cache_directory
from crfs.cli.background import leaving_warm
from crfs.cli.options import configure_log, open_log
from crfs.cli.pinned import pinned
from crfs.cli.services import Settings, settings_of
from crfs.errors import EngineRefused
from crfs.formats.reference import Source
from crfs.mount.daemon import Ready, leave, start_daemon
from crfs.mount.door import Door
from crfs.mount.engines.choice import AUTO, Choice, fallen_back
from crfs.mount.handover import DISABLE, IS_WARM, identity
from crfs.mount.joining import ask
from crfs.overlay.spec import UpperSpec

if TYPE_CHECKING:
    import socket

_UNIX = "unix:"
# of a terminal, a login or a service: nothing that mounts go by
_PASSING = {"_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLORTERM", "COLUMNS", "LINES", "TMUX", "TMUX_PANE"}
_PASSING |= {"STY", "WINDOW", "SSH_TTY", "SSH_CLIENT", "SSH_CONNECTION", "XDG_SESSION_ID", "INVOCATION_ID"}
_PASSING |= {"JOURNAL_STREAM", DISABLE}


class Wish(Struct, frozen=True):
    """A mount that is wanted, by whom it is not served: every path is absolute. `spec`: where changes go."""

    where: Path
    source: Source
    settings: Settings
    options: tuple[str, ...]
    choice: Choice
    spec: UpperSpec | None = None
    metrics: str | None = None

    def encoded(self) -> bytes:
        """For another process; ValueError where a name is no UTF-8."""
        return msgspec.msgpack.encode(self, enc_hook=os.fsencode)


def decode_wish(data: bytes) -> Wish:
    """What Wish.encoded() has made."""
    return msgspec.msgpack.decode(data, type=Wish, dec_hook=_decoded)


def _decoded(_kind: type, name: bytes) -> Path:
    return Path(os.fsdecode(name))


def wish_of(
    args: argparse.Namespace,
    where: Path,
    options: tuple[str, ...],
    choice: Choice,
    source: Source,
    spec: UpperSpec | None,
) -> Wish:
    """What the command line says."""
    return Wish(
        where,
        pinned(source, None),
        _absolute(settings_of(args)),
        options,
        choice,
        spec,
        _absolute_address(args.metrics),
    )


def _absolute(settings: Settings) -> Settings:
    return replace(
        settings,
        cache=_path(settings.cache or cache_directory()),
        record=_path(settings.record),
        trace=_path(settings.trace),
        image_config=_path(settings.image_config),
        authfile=None if settings.authfile is None else os.path.abspath(settings.authfile),
    )


def _path(name: Path | None) -> Path | None:
    return None if name is None else Path(os.path.abspath(name))


def _absolute_address(metrics: str | None) -> str | None:
    if metrics is None or not metrics.startswith(_UNIX):
        return metrics
    return _UNIX + os.path.abspath(metrics.removeprefix(_UNIX))


def may_share(args: argparse.Namespace, wish: Wish) -> bool:
    """Whether its process may serve others: not where every read is to be seen, or that isn't wanted."""
    disabled = os.environ.get(DISABLE) not in (None, "", IS_WARM)
    return (
        args.server
        and not args.foreground
        and not disabled
        and wish.settings.record is None
        and _is_text(wish)
    )


def _is_text(wish: Wish) -> bool:
    try:
        wish.encoded()
    except UnicodeEncodeError:
        return False
    return True


def mount_together(
    args: argparse.Namespace, wish: Wish, log_path: Path, serve: Callable[[Door, Callable[[], None]], None]
) -> None:
    """Have it mounted by a process that serves others too, which is started where there is none. Any CrfsError."""
    signal.signal(signal.SIGTERM, leave)
    with leaving_warm() as held:

        def start(door: Door, connection: "socket.socket") -> None:
            def work(ready: Ready) -> None:
                # that end is the caller's: when he goes, it has to be closed
                connection.close()
                log = open_log(log_path)
                configure_log(args.log_level, f"crfs[{os.getpid()}]", log)
                serve(door, lambda: ready(log))
                sys.exit()

            start_daemon(work)
            door.leave()

        ask(_key(args, wish, log_path), wish.encoded(), held, start)


def _key(args: argparse.Namespace, wish: Wish, log_path: Path) -> bytes:
    """What all mounts of a server have in common."""
    umask = os.umask(0o077)
    os.umask(umask)
    environment = sorted(f"{name}={value}" for name, value in os.environ.items() if name not in _PASSING)
    words = [str(wish.settings.cache), str(log_path), args.log_level, str(umask), *environment]
    return b"\0".join([identity(), *map(os.fsencode, words)])


def may_fall_back(args: argparse.Namespace, choice: Choice, error: EngineRefused) -> Choice:
    """The engine that can always be had, unless this one was asked for: then EngineRefused."""
    if args.engine != AUTO:
        raise EngineRefused(f"the engine {args.engine} can't be used: {error}") from error
    return fallen_back(choice, error)
