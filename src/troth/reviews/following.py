"""Events for one who asks for them again and again: each is told once. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from troth.mesh.connections import Connection
    from troth.reviews.objects import EventsAnswer

_OVERLAP_SECONDS = 30
"""How late an agent may hear of a connection: one that failed is reported at its end."""


class Fresh(NamedTuple):
    """What is new.

    Attributes:
        connections: The oldest first.
        left_out: How many older ones were too many to tell.
    """

    connections: tuple[Connection, ...]
    left_out: int


class Follower:
    """Remembers what was told of the time that the next question is about, too."""

    def __init__(self) -> None:
        self._told: frozenset[Connection] = frozenset()
        self._complete_at: float | None = None

    def since_seconds(self, now: float) -> int | None:
        """What to ask about; None for everything.

        Args:
            now: In seconds, on a clock that only goes forward.
        """
        if self._complete_at is None:
            return None
        return math.ceil(now - self._complete_at) + _OVERLAP_SECONDS

    def take(self, answers: Sequence[EventsAnswer], *, asked: float, complete: bool) -> Fresh:
        """What of the answers is new.

        Args:
            answers: Of the nodes that gave one.
            asked: When, on the clock of `since_seconds`.
            complete: Every node gave one. Otherwise the next question is about this time again.
        """
        seen = [frozenset(each.connection for each in answer.events) for answer in answers]
        heard: frozenset[Connection] = frozenset().union(*seen)
        # An answer that goes back to what was told has left out only what was told, too.
        left_out = sum(
            answer.left_out
            for answer, of in zip(answers, seen, strict=True)
            if of.isdisjoint(self._told)
        )
        fresh = Fresh(tuple(sorted(heard - self._told, key=lambda each: each.time)), left_out)
        if complete:
            self._told, self._complete_at = heard, asked
        else:
            self._told |= heard
        return fresh
