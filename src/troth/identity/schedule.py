"""When to renew a certificate, and when to try again: plain arithmetic on times.

Jitter is a number in [0, 1) from outside. It spreads what began together, such as all the pods of
a node, so that the authority isn't asked by everyone at once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

_RENEW_AT_SHARE = 0.5
_RENEW_SPREAD = 0.1
_FIRST_RETRY = timedelta(seconds=1)
_LONGEST_RETRY = timedelta(seconds=60)
_RETRY_SHARE_OF_REMAINING = 8


def renew_at(not_before: datetime, not_after: datetime, jitter: float) -> datetime:
    """The moment to ask for a successor: after 40 to 60 % of the validity.

    Half a lifetime is left for an authority that is down, which with 12 hours is a night's outage.
    """
    share = _RENEW_AT_SHARE + _RENEW_SPREAD * (2 * jitter - 1)
    return not_before + (not_after - not_before) * share


def next_retry(attempt: int, jitter: float, *, remaining: timedelta | None = None) -> timedelta:
    """How long to wait after a failure: doubling from a second to a minute, less up to half.

    Args:
        attempt: How many attempts have failed before this one; 0 after the first failure.
        jitter: In [0, 1).
        remaining: How long the present certificate is still valid, if there is one. No wait is
            longer than an eighth of it (but a second at least), so there are always several
            attempts left before it expires.
    """
    # The exponent is bounded, lest a long outage overflows.
    wait = min(_FIRST_RETRY * (1 << min(attempt, 16)), _LONGEST_RETRY)
    if remaining is not None:
        wait = min(wait, max(remaining / _RETRY_SHARE_OF_REMAINING, _FIRST_RETRY))
    return wait * (1 - jitter / 2)
