"""Which engine serves a mount: the best one that the machine allows for what is wanted, or the one asked for.

Runs before anything is fetched or mounted. What an engine needs is looked up only where it may be used.
"""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from crfs.errors import MountError

if TYPE_CHECKING:
    from crfs.overlay.spec import UpperSpec

AUTO = "auto"


class EngineName(enum.StrEnum):
    """`fuse`: llfuse carries names, bytes and changes. `overlay`: changes are the kernel's overlayfs's business.

    `erofs`: so are names and attributes, and llfuse carries nothing but bytes.
    """

    EROFS = "erofs"
    OVERLAY = "overlay"
    FUSE = "fuse"


class Wanted(Struct, frozen=True):
    """What is to be mounted: where changes go, None: nowhere; the options for libfuse; `image`: one alone."""

    spec: "UpperSpec | None"
    options: tuple[str, ...]
    image: bool = False


class Choice(Struct, frozen=True):
    """The engine, and why not each of those that would have been better."""

    engine: EngineName
    passed_over: dict[str, str] = {}


WhyNot = Callable[[Wanted], str | None]
FUSE = Choice(EngineName.FUSE)


def _why_not_erofs(wanted: Wanted) -> str | None:
    if not wanted.image:
        return "it carries one image, and nothing beside it"
    # late: not for those who ask for another
    from crfs.mount.engines.erofsfs import why_not

    return why_not(wanted.spec, wanted.options)


def _why_not_overlay(wanted: Wanted) -> str | None:
    if wanted.spec is None:
        return "nothing is written, so there is nothing that overlayfs would do better"
    # late: whoever mounts read-only needs none of it
    from crfs.mount.engines.overlayfs import why_not

    return why_not(wanted.spec, wanted.options)


def _why_not_fuse(wanted: Wanted) -> str | None:
    return None


# best first
ENGINES: tuple[tuple[EngineName, WhyNot], ...] = (
    (EngineName.EROFS, _why_not_erofs),
    (EngineName.OVERLAY, _why_not_overlay),
    (EngineName.FUSE, _why_not_fuse),
)
NAMES = (AUTO, *(name.value for name, _ in reversed(ENGINES)))


def choose(asked: str, wanted: Wanted) -> Choice:
    """`asked` is one of NAMES. MountError where that engine can't do it."""
    passed_over: dict[str, str] = {}
    for engine, why_not in ENGINES:
        if asked not in (AUTO, engine):
            continue
        reason = why_not(wanted)
        if reason is None:
            return Choice(engine, passed_over)
        if asked != AUTO:
            raise MountError(f"the engine {asked} can't be used: {reason}")
        passed_over[engine] = reason
    raise AssertionError(f"no engine takes {wanted}")


def fallen_back(choice: Choice, reason: Exception) -> Choice:
    """The engine that can always be had, after the one that was chosen could not."""
    return Choice(EngineName.FUSE, {**choice.passed_over, choice.engine: str(reason)})
