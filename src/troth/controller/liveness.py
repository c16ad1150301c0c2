"""Which nodes' agents are silent, by the rule of client-go's elections: without I/O.

A Lease has expired when it has been *seen* unrenewed for its whole duration, by this machine's
monotonic clock. Other machines' clocks matter only for Leases that existed at first sight.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from troth.cluster.installation import Lease


class _Sight(NamedTuple):
    """A Lease, and when its last change was seen."""

    lease: Lease
    since: float

    def has_run_out(self, at: float) -> bool:
        return at >= self.since + (self.lease.lease_duration_seconds or 0)


class Liveness:
    """The history of the agents' Leases."""

    def __init__(self) -> None:
        self._seen: dict[str, _Sight] = {}

    def silent(
        self, leases: Mapping[str, Lease], *, at: float, now: datetime, up_to_date: bool
    ) -> frozenset[str]:
        """The nodes whose agents' Leases have expired.

        Args:
            leases: The known Leases, by node.
            at: By the monotonic clock.
            now: By the wall clock.
            up_to_date: Whether renewals are seen. While they aren't, time doesn't count.
        """
        self._seen = {
            node: self._look(self._seen.get(node), lease, at, now, up_to_date=up_to_date)
            for node, lease in leases.items()
        }
        return frozenset(node for node, sight in self._seen.items() if sight.has_run_out(at))

    @staticmethod
    def _look(
        former: _Sight | None, lease: Lease, at: float, now: datetime, *, up_to_date: bool
    ) -> _Sight:
        if former is None:
            return _Sight(lease, at if lease.is_current(now) else -math.inf)
        if former.lease != lease or not (up_to_date or former.has_run_out(at)):
            return _Sight(lease, at)
        return former
