"""Platforms (OS, architecture, variant) and the choice of an image among an index's. Pure; any thread.

Names are normalised and variants matched as containerd's platforms package and containers/image do it.
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from crfs.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from crfs.formats.manifest import Descriptor, ImageIndex

_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "ppc64el": ("ppc64le", None),
    "loongarch64": ("loong64", None),
}
# the variant that "no variant" stands for, and the oldest that a newer one can run
_BASELINE = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_OLDEST = {"arm": 5, "arm64": 8, "amd64": 1}
_PART = re.compile(r"[A-Za-z0-9_.-]+")
_NUMBERED = re.compile(r"v?([0-9]+)")


class Platform(msgspec.Struct, frozen=True, omit_defaults=True, rename={"os_version": "os.version"}):
    """What an image runs on. `variant` None: the architecture's baseline, or not said."""

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def normalised(self) -> "Platform":
        """With the names that Go uses (amd64, not x86_64), and no variant where it is the baseline."""
        arch, implied = _ARCHITECTURES.get(self.architecture.lower(), (self.architecture.lower(), None))
        variant = (self.variant or "").lower() or implied
        number = _NUMBERED.fullmatch(variant or "")
        if number and arch in _BASELINE:
            variant = f"v{number[1]}"
        if variant == _BASELINE.get(arch):
            variant = None
        return Platform(self.os.lower(), arch, variant, self.os_version)


def parse_platform(text: str) -> Platform:
    """`OS/ARCHITECTURE[/VARIANT]`, normalised; a lone architecture is one of Linux. UsageError otherwise."""
    parts = text.split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise UsageError(f"{text!r} is not a platform: write OS/ARCHITECTURE[/VARIANT], like linux/arm64/v8")
    if len(parts) == 1:
        parts = ["linux", *parts]
    return Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else None).normalised()


def host_platform() -> Platform:
    """The platform that this machine's kernel reports."""
    return Platform(sys.platform, os.uname().machine).normalised()


def select_manifest(index: "ImageIndex", wanted: Platform) -> "Descriptor":
    """The entry of `index` for `wanted`: the best variant that it can run, the first of equals.

    Attestations (`unknown/unknown`) are never chosen. A lone entry that names no platform is taken as it is.
    UnsupportedError, listing the platforms there are, when nothing fits.
    """
    images = [entry for entry in index.manifests if not _is_attestation(entry)]
    for candidate in _candidates(wanted.normalised()):
        for entry in images:
            if entry.platform is not None and _same(entry.platform.normalised(), candidate):
                return entry
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    there = ", ".join(dict.fromkeys(str(entry.platform or "unnamed") for entry in images)) or "none"
    raise UnsupportedError(f"the image index has nothing for {wanted}; there is: {there}")


def _candidates(wanted: Platform) -> Iterator[Platform]:
    """`wanted`, then what else it can run: the older variants of the same architecture, newest first."""
    yield wanted
    number = _NUMBERED.fullmatch(wanted.variant or _BASELINE.get(wanted.architecture, ""))
    oldest = _OLDEST.get(wanted.architecture)
    if number is None or oldest is None:
        if wanted.variant:
            yield Platform(wanted.os, wanted.architecture)
        return
    for version in range(min(int(number[1]), 99) - 1, oldest - 1, -1):
        yield Platform(wanted.os, wanted.architecture, f"v{version}").normalised()


def _same(left: Platform, right: Platform) -> bool:
    return (left.os, left.architecture, left.variant) == (right.os, right.architecture, right.variant)


def _is_attestation(entry: "Descriptor") -> bool:
    platform = entry.platform
    return "vnd.docker.reference.type" in entry.annotations or (
        platform is not None and (platform.os, platform.architecture) == ("unknown", "unknown")
    )
