"""Connections that Envoy closed at once because there were too many: known by its counters alone.

Such connections are in no access log: Envoy spends nothing on them. It counts them by listener, and
so by pod and direction.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from troth.envoy.events import Role
from troth.traffic.connection import ConnectionReport, Outcome, Reason, Side

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    Counts = Mapping["Overflowing", int]


class _Counter(NamedTuple):
    """One of Envoy's counters of a listener, and what it means."""

    name: str
    reason: Reason
    detail: str


_COUNTERS = (
    _Counter("downstream_cx_overflow", Reason.TOO_MANY_CONNECTIONS, ""),
    _Counter(
        "downstream_global_cx_overflow",
        Reason.NODE_OVERLOADED,
        "had as many connections open as its limit on open files allows",
    ),
    _Counter(
        "downstream_cx_overload_reject",
        Reason.NODE_OVERLOADED,
        "had used nearly all the memory that it may",
    ),
)

COUNTERS = tuple(f".{counter.name}" for counter in _COUNTERS)
"""How the names of the counters end that Envoy must keep."""

_KINDS = {
    Role.TUNNEL_IN: "that come by the tunnel",
    Role.PLAIN_IN: "that come in plaintext",
    Role.OUTBOUND: "that leave it",
}

_LINE = re.compile(
    rf"listener\.(?P<role>{'|'.join(Role)})\|(?P<pod>.+)"
    rf"\.(?P<counter>{'|'.join(counter.name for counter in _COUNTERS)}): (?P<count>[0-9]+)"
)


class Overflowing(NamedTuple):
    """What is counted: refusals of one listener for one reason."""

    role: Role
    pod: str
    counter: _Counter


def read_counts(text: str) -> Counts:
    """Read what Envoy's admin interface answers to ``/stats``; other counters are left out."""
    counters = {counter.name: counter for counter in _COUNTERS}
    return {
        Overflowing(Role(found["role"]), found["pod"], counters[found["counter"]]): int(
            found["count"]
        )
        for line in text.splitlines()
        if (found := _LINE.fullmatch(line))
    }


def overflows(before: Counts, now: Counts, time: datetime) -> tuple[ConnectionReport, ...]:
    """What happened between two looks at the counters, the second of them at ``time``."""
    found = []
    for what, count in now.items():
        past = before.get(what, 0)
        # Another Envoy, or another listener of the same name, begins at zero.
        new = count - past if count >= past else count
        if new:
            found.append(
                ConnectionReport.of_count(
                    what.pod,
                    time=time,
                    count=new,
                    outcome=Outcome.FAILED,
                    reason=what.counter.reason,
                    side=Side.CLIENT if what.role is Role.OUTBOUND else Side.SERVER,
                    detail=what.counter.detail or _KINDS[what.role],
                )
            )
    return tuple(found)
