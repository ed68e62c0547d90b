"""What is mounted by crfs, and how it is with each mount, as far as anybody can tell."""

import enum
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from crfs.blobs.directories import runtime_directory
from crfs.image.report import Report
from crfs.mount.mountpoint import PLACES, Mounted, is_dead, iter_mounts
from crfs.mount.state import MountState, find_state, is_lost
from crfs.mount.telling import ask


class Health(enum.StrEnum):
    """`running`: a process serves it. `silent`: it has one, which does not answer. `lost`: the process is gone.

    `foreign`: it answers, and belongs to another user or another runtime directory.
    """

    RUNNING = "running"
    SILENT = "silent"
    LOST = "lost"
    FOREIGN = "foreign"


class MountStatus(msgspec.Struct, frozen=True, rename="kebab"):
    """One mount; of a foreign one, no more than the mount table says. `passed_over`: engines, and why not these."""

    mountpoint: str
    source: str
    health: Health
    pid: int | None = None
    engine: str | None = None
    passed_over: dict[str, str] = {}
    upper: str | None = None
    report: Report | None = None


def iter_status(only: Path | None = None) -> Iterator[MountStatus]:
    """All mounts of this machine that are ours, or the topmost at `only`, in the order of their making."""
    wanted = None if only is None else os.fsencode(only)
    # what other mounts are made of is none that anybody has asked for
    hidden = os.fsencode(runtime_directory() / PLACES) + b"/"
    found = {
        at: mounted for at, mounted in iter_mounts() if wanted in (None, at) and not at.startswith(hidden)
    }
    for at, mounted in found.items():
        if mounted.is_ours:
            yield _status(at, mounted)


def _status(at: bytes, mounted: Mounted) -> MountStatus:
    state = find_state(mounted.device)
    shown = at.decode(errors="backslashreplace")
    if state is None:
        lost = is_lost(mounted.device) or is_dead(Path(os.fsdecode(at)))
        return MountStatus(shown, mounted.source, Health.LOST if lost else Health.FOREIGN)
    return _running(shown, state, ask(mounted.device, state.pid) if state.reports else None)


def _running(at: str, state: MountState, report: Report | None) -> MountStatus:
    health = Health.SILENT if state.reports and report is None else Health.RUNNING
    return MountStatus(
        at, state.source, health, state.pid, state.engine, state.passed_over, state.upper, report
    )
