"""All questions, by name, in the order they are asked."""

from __future__ import annotations

from benches.question import Questions
from benches.questions import (
    convert,
    converted,
    kernels,
    memory,
    mount_scale,
    read,
    registry,
    scale_start,
    start,
    timeline,
    walk,
    write,
)

QUESTIONS: Questions = {
    "start": start,
    "scale_start": scale_start,
    "walk": walk,
    "read": read,
    "write": write,
    "mount_scale": mount_scale,
    "timeline": timeline,
    "kernels": kernels,
    "registry": registry,
    "convert": convert,
    "memory": memory,
    "converted": converted,
}

# asked only where they are named: with them half an hour would not do
NAMED_ONLY = {"memory", "converted"}
