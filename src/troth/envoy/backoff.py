"""How long to wait before a process that ended is started again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BASE = 0.1
_CEILING = 5.0
_HEALTHY_AFTER = 10.0


def _spread(delay: float) -> float:
    """Up to a tenth more, so that what failed together doesn't come back in step."""
    return delay * random.uniform(1.0, 1.1)  # noqa: S311  nothing secret about it


class Backoff:
    """Restart at once after a healthy run, then after 0.1 s, doubling up to 5 s.

    Args:
        jitter: Spreads a delay; the identity in tests.
    """

    def __init__(self, jitter: Callable[[float], float] = _spread) -> None:
        self._jitter = jitter
        self._failures = 0

    def delay(self, ran_for: float) -> float:
        """Seconds to wait after a run of ``ran_for`` seconds."""
        if ran_for >= _HEALTHY_AFTER:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        # The exponent is bounded, too: 2**n outgrows a float in a process that fails for days.
        return self._jitter(min(_BASE * 2 ** min(self._failures - 2, 16), _CEILING))
