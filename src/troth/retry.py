"""How long to wait before a retry: twice as long each time, up to a limit."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Duration = TypeVar("Duration", float, timedelta)

_MOST_DOUBLINGS = 16
"""2**n would overflow a float if something failed for days."""


def doubled(first: Duration, longest: Duration, times: int) -> Duration:
    """``first`` doubled ``times`` times, but no more than ``longest``."""
    return min(first * (1 << min(times, _MOST_DOUBLINGS)), longest)


_HEALTHY_AFTER = 10.0
"""How many seconds a run has to last to count as a success."""


class Backoff:
    """The waits after consecutive failures, in seconds.

    Args:
        first: The shortest.
        longest: The longest.
        at_once: Don't wait after the first failure.
        jitter: Randomises a wait, so that clients don't retry in step.
    """

    def __init__(
        self,
        first: float,
        longest: float,
        *,
        at_once: bool = False,
        jitter: Callable[[float], float] = float,
    ) -> None:
        self._first = first
        self._longest = longest
        self._at_once = at_once
        self._jitter = jitter
        self._failures = 0

    def reset(self) -> None:
        """Record a success."""
        self._failures = 0

    def next(self) -> float:
        """Record a failure; return how long to wait before the next attempt."""
        doublings = self._failures - self._at_once
        self._failures += 1
        return self._jitter(doubled(self._first, self._longest, doublings)) if doublings >= 0 else 0

    def after(self, ran_for: float) -> float:
        """Record a run of ``ran_for`` seconds; return how long to wait before the next one."""
        if ran_for >= _HEALTHY_AFTER:
            self.reset()
        return self.next()
