"""The differences between crfs and the kernel's overlayfs that are meant, each with its reason.

`DIVERGENCES` are looked up where two answers differ; nothing else is let pass. `EXCLUDED` is what no step does,
for its answers can't be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.fsops import (
    STALE,
    Failed,
    HandleChmod,
    HandleChown,
    HandleSetXattr,
    HandleStat,
    HandleUtime,
    MapRead,
    Step,
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A difference that is meant. With `cuts` it leaves two trees, so that what follows says nothing."""

    name: str
    reason: str
    applies: Callable[[Step, object, object], bool]
    cuts: bool = False


def _has_no_name(step: Step, got: object, wanted: object) -> bool:
    if not (isinstance(step, HandleStat) and isinstance(got, str) and isinstance(wanted, str)):
        return False
    return got.replace(" nlink=0 ", " nlink=1 ") == wanted


_SETTING = (HandleChmod, HandleChown, HandleUtime, HandleSetXattr)


def _is_set_on_a_removed_directory(step: Step, got: object, wanted: object) -> bool:
    # EIO where the kernel has an index
    return (
        isinstance(step, _SETTING)
        and not isinstance(got, Failed)
        and wanted in (Failed("ENOTDIR"), Failed("EIO"))
    )


def _is_mapped_as_it_was(step: Step, got: object, wanted: object) -> bool:
    return isinstance(step, MapRead) and wanted == STALE and not isinstance(got, Failed)


DIVERGENCES = (
    Divergence(
        "an open file of a lower directory, without a name",
        "the kernel's answers with the lower file's link count; POSIX and crfs say 0",
        _has_no_name,
    ),
    Divergence(
        "what is set on an open lower directory that has been removed",
        "the kernel's can't copy up what has no place any more; by POSIX what is open can be changed",
        _is_set_on_a_removed_directory,
    ),
    Divergence(
        "a mapping by a handle that was there before the copy-up",
        "the kernel's is of the lower file, and shorter than what the handle's size says; crfs's shows what is read",
        _is_mapped_as_it_was,
    ),
)

EXCLUDED = {
    "renameat2 with RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT": "libfuse 2 has no rename flags",
    "fallocate, lseek with SEEK_HOLE and SEEK_DATA, FICLONE, copy_file_range": "libfuse 2 has no such requests",
    "open with O_TMPFILE": "libfuse 2 has no such request",
    "system.posix_acl_access, system.posix_acl_default": "refused by crfs, since llfuse can't negotiate ACLs",
    "trusted.overlay.*": "names of the overlay's own; newer kernels escape them, older ones refuse them",
    "the size and link count of directories": "1, or the number of subdirectories, as the layers have it",
    "truncate(2) to the size that there is": "FUSE can't tell it from O_TRUNC, which alone sets the mtime then",
    "lseek in directories": "FUSE's and overlayfs's offsets are their own",
    "link counts of files that have several names in a lower directory, as the kernel shows them without an index": (
        "the number of names that the lower directory has; only the kernel's index counts those removed"
    ),
    "the order of directory entries": "POSIX leaves it open",
    "a lower file's mapping that was there before the copy-up": "the kernel's shows old bytes (overlayfs.rst)",
}


def allowed(step: Step, got: object, wanted: object) -> Divergence | None:
    """Why these answers may differ, if so."""
    return next((each for each in DIVERGENCES if each.applies(step, got, wanted)), None)
