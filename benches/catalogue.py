"""All questions, by name, in the order they are asked."""

from __future__ import annotations

from benches.question import Questions
from benches.questions import memory, read, start, walk

QUESTIONS: Questions = {
    "start": start,
    "walk": walk,
    "read": read,
    "memory": memory,
}
