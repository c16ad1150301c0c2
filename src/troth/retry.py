"""How long to wait before what failed is tried again: twice as long each time, up to a limit."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Duration = TypeVar("Duration", float, timedelta)

_MOST_DOUBLINGS = 16
"""2**n outgrows a float if something fails for days."""


def doubled(first: Duration, longest: Duration, times: int) -> Duration:
    """``first``, doubled so many times, but no more than ``longest``."""
    return min(first * (1 << min(times, _MOST_DOUBLINGS)), longest)


class Backoff:
    """The waits after failures in a row, in seconds.

    Args:
        first: The shortest.
        longest: The longest.
        at_once: The first failure is followed by no wait at all.
        healthy_after: Success is a run of so many seconds; see `after`.
        jitter: Makes of a wait one that is out of step with others.
    """

    def __init__(
        self,
        first: float,
        longest: float,
        *,
        at_once: bool = False,
        healthy_after: float = 10.0,
        jitter: Callable[[float], float] = float,
    ) -> None:
        self._first = first
        self._longest = longest
        self._at_once = at_once
        self._healthy_after = healthy_after
        self._jitter = jitter
        self._failures = 0

    def reset(self) -> None:
        """Note a success."""
        self._failures = 0

    def next(self) -> float:
        """Note a failure; how long to wait before the next attempt."""
        doublings = self._failures - self._at_once
        self._failures += 1
        return self._jitter(doubled(self._first, self._longest, doublings)) if doublings >= 0 else 0

    def after(self, ran_for: float) -> float:
        """How long to wait after a run that ended after so many seconds."""
        if ran_for >= self._healthy_after:
            self.reset()
        return self.next()
