"""Lower directories as crfs-plugin names them for fuse-overlayfs: `//crfs/BASE64/PATH`. Pure.

BASE64 is a source: `docker://REF`, an http or https URL, `file://PATH`, or an absolute path. PATH is where
crfs-plugin keeps copies of what it has fetched: a directory of this machine, not a place inside the image, all
of which is shown. crfs has its cache and does not touch PATH.
"""

import base64
import os
import re
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from crfs.errors import UsageError
from crfs.formats.reference import FileSource, Source, parse_source

PREFIX = "//"
_PLUGIN = "crfs"
_SOURCES = ("docker://", "https://", "http://", "file://", "/")
_BASE64 = re.compile(r"([A-Za-z0-9+/_-]+)={0,2}")


class CrfsLower(Struct, frozen=True):
    """An image, with all of its layers, or a single layer. `scratch` is crfs-plugin's PATH."""

    source: Source
    scratch: str = ""


def parse_crfs_lower(text: str, cwd: Path) -> CrfsLower:
    """What `//crfs/BASE64/PATH` names; UsageError for anything else that begins with two slashes.

    BASE64 is of either alphabet, padded or not. In the standard one it may have slashes in it: it is then the
    longest beginning that decodes to a source.
    """
    plugin, _, rest = text.removeprefix(PREFIX).partition("/")
    if plugin != _PLUGIN:
        raise UsageError(f"lowerdir={text!r}: there is no plugin {plugin!r}; a path begins with one slash")
    refused = None
    for encoded in _candidates(rest):
        decoded = _decode(encoded)
        if decoded is None or not decoded.startswith(_SOURCES):
            continue
        try:
            return CrfsLower(_absolute(parse_source(decoded), cwd), rest[len(encoded) + 1 :])
        except UsageError as error:
            refused = error
    raise refused or UsageError(
        f"lowerdir={text!r}: what follows //crfs/ is not the base64 of a docker://, https://, http:// or "
        "file:// source, nor of an absolute path"
    )


def _candidates(rest: str) -> list[str]:
    """What BASE64 may be, longest first."""
    # Two slashes are twelve bits set, which no text in UTF-8 has: the one between, and that of an absolute PATH.
    # Of three the first may be a digit.
    slashes = re.search("//+", rest)
    limit = len(rest) if slashes is None else slashes.start() + (len(slashes[0]) > 2)
    ends = [at for at in range(limit) if rest[at] == "/"]
    return [rest[:end] for end in (limit, *reversed(ends))]


def _decode(encoded: str) -> str | None:
    match = _BASE64.fullmatch(encoded)
    if match is None or len(match[1]) % 4 == 1:
        return None
    digits = match[1].translate({ord("-"): "+", ord("_"): "/"})
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4)).decode()
    except UnicodeDecodeError:
        return None


def _absolute(source: Source, cwd: Path) -> Source:
    if isinstance(source, FileSource):
        return replace(source, path=os.path.join(cwd, source.path))
    return source
