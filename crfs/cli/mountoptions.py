"""The text behind `-o`: what is ours, what is libfuse's, and what mount(8) says that means nothing here."""

import argparse
from pathlib import Path

from crfs.cli.options import parse_bool, parse_engine, parse_size
from crfs.errors import UsageError
from crfs.integrations.escapes import split_list, unescape

# handed to libfuse as they are
_FUSE = {"allow_other", "allow_root", "default_permissions", "auto_unmount", "fsname", "max_read", "debug"}
_FUSE |= {"suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "sync", "async", "nonempty"}
# mount(8) and fstab(5); a mount is writable where it has an upper directory, whatever they say
_IGNORED = {"ro", "rw", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail"}
_IGNORED |= {
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
}


def apply_mount_options(args: argparse.Namespace) -> tuple[tuple[str, ...], bool]:
    """Set what `-o` says on `args`; the options for libfuse, and whether DIR may have something in it.

    UsageError for an option that nobody knows.
    """
    fuse = []
    for option in (word for text in args.mount_options for word in text.split(",") if word):
        name, _, value = option.partition("=")
        if name in _FUSE:
            fuse.append(option)
        elif name not in _IGNORED and not name.startswith("x-"):
            _apply_own(args, name.replace("-", "_"), value, option)
    return tuple(fuse), "nonempty" in fuse


def _apply_own(args: argparse.Namespace, name: str, value: str, option: str) -> None:
    """One of our long options, written as a mount option."""
    try:
        match name:
            case "cache" | "log_file" | "image_config" | "record" | "trace" | "upper" | "work":
                setattr(args, name, Path(value))
            case "upperdir" | "workdir":
                setattr(args, name.removesuffix("dir"), Path(value))
            case "lower" | "lowerdir":
                args.lower = [*args.lower, *(unescape(each) for each in split_list(value))]
            case "authfile" | "platform" | "log_level" | "pull" | "metrics":
                setattr(args, name, value)
            case "engine":
                args.engine = parse_engine(value)
            case "new_upper":
                args.new_upper = parse_bool(value or "true")
            case "no_trace":
                args.traces = not parse_bool(value or "true")
            case "background_fetch":
                args.background_fetch = parse_bool(value or "true")
            case "no_background_fetch":
                args.background_fetch = not parse_bool(value or "true")
            case "cache_size" | "cache_free" | "background_rate":
                setattr(args, name, parse_size(value))
            case "tls_verify" | "allow_unverified":
                setattr(args, name, parse_bool(value or "true"))
            case _:
                raise UsageError(f"-o {option}: unknown mount option")
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"-o {option}: {error}") from error
