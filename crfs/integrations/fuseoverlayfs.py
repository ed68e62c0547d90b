"""fuse-overlayfs's command line, `[-f] [-d] [-o OPT,...]... MERGED`, as a value. Pure: nothing is looked up.

As fuse-overlayfs does: of an option that comes again the last counts, of several directories to mount on as
well (mount(8) puts a source before it), and what nobody knows is ignored with a warning.
"""

import enum
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from crfs.errors import UsageError
from crfs.formats.overridestat import XattrPermissions
from crfs.integrations.crfsplugin import PREFIX, parse_crfs_lower
from crfs.integrations.escapes import split_list, split_options, unescape
from crfs.integrations.idmap import IdRange
from crfs.integrations.overlayrequest import (
    TIMEOUT_SECONDS,
    Acl,
    DirectoryLower,
    Lower,
    OverlayRequest,
    RedirectDir,
    Xino,
)

_IDS = 2**32

_FLAGS = {"squash_to_root", "static_nlink", "volatile", "noacl", "ino32_t", "userxattr", "debug"}
_VALUES = {"lowerdir", "upperdir", "workdir", "uidmapping", "gidmapping", "squash_to_uid", "squash_to_gid"}
_VALUES |= {"xino", "redirect_dir", "context", "timeout", "threaded", "fsync", "fast_ino", "writeback"}
_VALUES |= {"noxattrs", "xattr_permissions", "plugins"}
# libfuse 2 knows these; ro and rw it gets from us
_ACCESS = {"ro", "rw"}
_FUSE_FLAGS = {"allow_root", "allow_other", "default_permissions", "auto_unmount", "nonempty"}
_FUSE_FLAGS |= {"suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime"}
_FUSE_FLAGS |= {"sync", "async", "dirsync"}
_FUSE_VALUES = {"fsname", "max_read", "max_write", "max_readahead", "max_background", "congestion_threshold"}
# fuse-overlayfs, libfuse 3 or mount(8) know these; they mean nothing here
_IGNORED = {"diratime", "nodiratime", "lazytime", "nolazytime", "relatime", "norelatime", "strictatime"}
_IGNORED |= {"splice_read", "splice_write", "splice_move", "kernel_cache", "clone_fd"}
_IGNORED |= {"max_threads", "max_idle_threads", "defaults", "auto", "noauto", "nofail", "_netdev"}
_IGNORED |= {"user", "nouser", "users", "owner", "group"}

_WORDS = {"-f": "foreground", "-d": "debug", "--debug": "debug", "-s": "single"}
_WORDS |= {"-h": "help", "--help": "help", "-V": "version", "--version": "version"}

Choice = TypeVar("Choice", bound=enum.Enum)


class Words(Struct, frozen=True):
    """The command line, not looked into: `options` are what follows each -o, `places` the other arguments."""

    options: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    foreground: bool = False
    debug: bool = False
    help: bool = False
    version: bool = False


def parse_words(argv: Sequence[str]) -> Words:
    """Take a command line (without the program's name) apart; UsageError where -o lacks its options."""
    options: list[str] = []
    places: list[str] = []
    unknown: list[str] = []
    seen: set[str] = set()
    words = iter(argv)
    for word in words:
        if word == "--":
            places += words
        elif word.startswith("-o"):
            text = word[2:] or next(words, None)
            if text is None:
                raise UsageError("-o: the options are missing")
            options.append(text)
        elif not word.startswith("-"):
            places.append(word)
        elif word in _WORDS:
            seen.add(_WORDS[word])
        else:
            unknown.append(word)
    return Words(
        tuple(options),
        tuple(places),
        tuple(unknown),
        foreground="foreground" in seen,
        debug="debug" in seen,
        help="help" in seen,
        version="version" in seen,
    )


class _Sorted(Struct, frozen=True):
    """Options by who knows them; what is ours by name, still escaped."""

    values: dict[str, str]
    flags: set[str]
    fuse: list[str]
    unknown: list[str]


def parse_request(words: Words, cwd: Path) -> OverlayRequest:
    """What a command line asks for. Relative paths are relative to `cwd`. UsageError, in one line."""
    found = _sort(option for text in words.options for option in split_options(text))
    if not words.places:
        raise UsageError("the directory to mount on is missing")
    values, flags = found.values, found.flags
    upperdir, workdir = _parse_upper(values, cwd)
    debug = words.debug or "debug" in flags
    root = 0 if "squash_to_root" in flags else None
    volatile = "volatile" in flags
    return OverlayRequest(
        _path("mountpoint", words.places[-1], cwd),
        _parse_lowers(values, cwd),
        upperdir,
        workdir,
        read_only=upperdir is None or values.get("access") == "ro",
        foreground=words.foreground or debug,
        debug=debug,
        uid_ranges=_parse_ranges(values, "uidmapping"),
        gid_ranges=_parse_ranges(values, "gidmapping"),
        squash_uid=_parse_id(values, "squash_to_uid", root),
        squash_gid=_parse_id(values, "squash_to_gid", root),
        static_nlink="static_nlink" in flags,
        xino=_parse_choice(values, "xino", Xino, Xino.AUTO),
        ino32="ino32_t" in flags,
        acl=Acl.OFF if "noacl" in flags else Acl.ON,
        timeout=_parse_timeout(values),
        threaded=_parse_switch(values, "threaded", default=True),
        fsync=_parse_switch(values, "fsync", default=True) and not volatile,
        volatile=volatile,
        fast_ino=_parse_switch(values, "fast_ino", default=False),
        writeback=_parse_switch(values, "writeback", default=True),
        noxattrs=_parse_switch(values, "noxattrs", default=False),
        userxattr="userxattr" in flags,
        xattr_permissions=_parse_xattr_permissions(values),
        redirect_dir=_parse_choice(values, "redirect_dir", RedirectDir, RedirectDir.ON),
        context=_parse_context(values),
        fuse_options=tuple(found.fuse),
        warnings=tuple(f"{name!r}: unknown option, ignored" for name in (*words.unknown, *found.unknown)),
    )


def _sort(options: Iterable[str]) -> _Sorted:
    found = _Sorted({}, set(), [], [])
    for option in options:
        name, equals, value = option.partition("=")
        if not equals and name in _FLAGS:
            found.flags.add(name)
        elif not equals and name in _ACCESS:
            found.values["access"] = name
        elif equals and name in _VALUES:
            found.values[name] = value
        elif name in (_FUSE_VALUES if equals else _FUSE_FLAGS):
            found.fuse.append(option)
        elif name not in _IGNORED and not name.startswith("x-"):
            found.unknown.append(option)
    return found


def _path(name: str, text: str, cwd: Path) -> Path:
    if not text or "\0" in text:
        raise UsageError(f"{name}={text!r} is not a path")
    return cwd / text


def _parse_lowers(values: Mapping[str, str], cwd: Path) -> tuple[Lower, ...]:
    names = [unescape(name) for name in split_list(values.get("lowerdir", ""))]
    if not names:
        raise UsageError("lowerdir= is missing: which directories shall be seen?")
    return tuple(
        parse_crfs_lower(name, cwd)
        if name.startswith(PREFIX)
        else DirectoryLower(_path("lowerdir", name, cwd))
        for name in names
    )


def _parse_upper(values: Mapping[str, str], cwd: Path) -> tuple[Path | None, Path | None]:
    if "upperdir" not in values:
        return None, None
    if "workdir" not in values:
        raise UsageError("workdir= is missing: upperdir= needs one, on the same file system")
    upper, work = (_path(name, unescape(values[name]), cwd) for name in ("upperdir", "workdir"))
    return upper, work


def _parse_ranges(values: Mapping[str, str], name: str) -> tuple[IdRange, ...]:
    """`HOST:TO:LENGTH`, any number of times."""
    text = values.get(name, "")
    numbers = [_number(part) for part in text.split(":") if part]
    if len(numbers) % 3 or None in numbers:
        raise UsageError(f"{name}={text!r} is not made of HOST:TO:LENGTH, joined by colons")
    known = [number for number in numbers if number is not None]
    ranges = tuple(IdRange(*known[at : at + 3]) for at in range(0, len(known), 3))
    if any(max(part.host, part.to) + part.length > _IDS for part in ranges):
        raise UsageError(f"{name}={text!r}: ids have 32 bits")
    return ranges


def _parse_id(values: Mapping[str, str], name: str, default: int | None) -> int | None:
    if name not in values:
        return default
    number = _number(values[name])
    if number is None or number >= _IDS:
        raise UsageError(f"{name}={values[name]!r} is not an id")
    return number


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _parse_switch(values: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A number, 0 for no."""
    if name not in values:
        return default
    number = _number(values[name])
    if number is None:
        raise UsageError(f"{name}={values[name]!r}: it is 0 or 1")
    return number != 0


def _parse_choice(values: Mapping[str, str], name: str, kind: type[Choice], default: Choice) -> Choice:
    if name not in values:
        return default
    try:
        return kind(values[name])
    except ValueError:
        choices = ", ".join(str(one.value) for one in kind)
        raise UsageError(f"{name}={values[name]!r}: it is one of {choices}") from None


def _parse_xattr_permissions(values: Mapping[str, str]) -> XattrPermissions:
    text = values.get("xattr_permissions", "0")
    if text not in ("0", "1", "2"):
        raise UsageError(f"xattr_permissions={text!r}: it is 0, 1 or 2")
    return XattrPermissions(int(text))


def _parse_timeout(values: Mapping[str, str]) -> float:
    text = values.get("timeout", str(TIMEOUT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UsageError(f"timeout={text!r} is not a number of seconds")
    return seconds


def _parse_context(values: Mapping[str, str]) -> str | None:
    text = values.get("context")
    if text is None:
        return None
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1] if quoted else unescape(text)
