"""How soon it is noticed that the other end of a connection has vanished: TCP keepalive.

Probes also keep the kernel from forgetting where an idle or half-closed connection was redirected
to (`troth.agent.sysctls`), so they are never further apart than a minute.
"""

from __future__ import annotations

import msgspec

KEEPALIVE_SECONDS = 120
"""By default; Linux' own default is two hours and eleven minutes."""

SHORTEST_KEEPALIVE_SECONDS, LONGEST_KEEPALIVE_SECONDS = 4, 7200
_LONGEST_PAUSE = 60


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """When the kernel asks whether the other end is there, and gives it up.

    Attributes:
        idle: After so many seconds without a word from it, it is asked.
        interval: Seconds between one question and the next.
        count: After so many without an answer it is given up.
    """

    idle: int
    interval: int
    count: int

    @classmethod
    def of(cls, seconds: int) -> Keepalive:
        """What notices a vanished end within about ``seconds``, 4 to 7200."""
        idle = min(_LONGEST_PAUSE, seconds // 2)
        interval = min(_LONGEST_PAUSE, max(1, (seconds - idle) // 4))
        return cls(idle=idle, interval=interval, count=(seconds - idle) // interval)
