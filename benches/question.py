"""What a module in benches/questions offers, and what it is given to answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benches.link import LOOPBACK, Shape
from benches.peers.peer import Peer
from benches.place import Place
from benches.stats import Samples


class Unmeasured(Exception):
    """A peer did not do what its numbers would claim; the message says what."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, as far as questions choose their cases by it."""

    large: bool = False
    shape: Shape | None = None

    def shapes(self, *usual: Shape) -> tuple[Shape, ...]:
        """The link that was asked for, else the usual ones."""
        return (self.shape,) if self.shape else usual


@dataclass(frozen=True, slots=True)
class Case:
    """One circumstance to ask all peers in: the images, the link, how many at once."""

    name: str
    images: tuple[str, ...] = ()
    shape: Shape = LOOPBACK
    count: int = 1


@dataclass(frozen=True, slots=True)
class Asking:
    """One peer, asked once in one case. Its numbers go to `samples` by `add`."""

    peer: Peer
    case: Case
    place: Place
    samples: Samples
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, **measures: float) -> None:
        """Keep one number of each measure; its unit is the last word of its name."""
        self.samples.add(self.peer.name, **measures)


class Question(Protocol):
    """A module with a question in its docstring's first line."""

    __doc__: str | None

    @property
    def PEERS(self) -> Sequence[Peer]:
        """Those who are asked; `MORE`, where a question has it, are those that have to be named."""
        ...

    def cases(self, wanted: Wanted) -> Sequence[Case]:
        """The circumstances to ask in."""
        ...

    def ask(self, asking: Asking) -> str:
        """Ask once; what the peer's program said, which has to be the same for all peers of a case."""
        ...


def more_peers(question: Question) -> Sequence[Peer]:
    """Those that are asked only where they are named, or all are."""
    more: Sequence[Peer] = getattr(question, "MORE", ())
    return more


Questions = Mapping[str, Question]
