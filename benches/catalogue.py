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
    "memory": memory,
    "timeline": timeline,
    "kernels": kernels,
    "registry": registry,
    "convert": convert,
    "converted": converted,
}
