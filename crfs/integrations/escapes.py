"""Escapes in mount options: what a backslash makes literal in `-o A,B` and in `lowerdir=A:B`. Pure.

A backslash takes the meaning from the character behind it, and with three octal digits it stands for a byte,
as libfuse's fuse_opt_parse() reads options. In lists an escaped colon is part of a name, as for the kernel's
overlayfs.
"""

import os
import re

# mount(8) takes commas between double quotes for part of an SELinux context
_OPTION = re.compile(r'(?:fs|def|root)?context="[^"]*"|(?:\\.|[^,\\]|\\\Z)+', re.DOTALL)
_NAME = re.compile(r"(?:\\.|[^:\\]|\\\Z)+", re.DOTALL)
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)


def split_options(text: str) -> list[str]:
    """The options between commas, still escaped; empty ones are none."""
    return _OPTION.findall(text)


def split_list(text: str) -> list[str]:
    """The names between colons, still escaped; empty ones are none."""
    return _NAME.findall(text)


def unescape(text: str) -> str:
    """`text` as it is meant. A backslash at the end stands for itself."""
    return os.fsdecode(_ESCAPE.sub(_meant, os.fsencode(text)))


def _meant(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    return bytes([int(escaped, 8)]) if len(escaped) == 3 else escaped
