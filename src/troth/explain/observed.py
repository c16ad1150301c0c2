"""What connection events say about plaintext: who still speaks it to whom."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from troth.traffic.connection import Outcome, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.explain.noted import Noted
    from troth.traffic.connection import Connection


class Plaintext(msgspec.Struct, frozen=True, kw_only=True):
    """Plaintext connections from one client to one port of a workload.

    Attributes:
        source: ``NAMESPACE/NAME`` of the client's workload, or its IP when it is none known.
        destination: ``NAMESPACE/NAME`` of the workload.
        count: How many connections passed.
        last: When the newest of them ended.
    """

    source: str
    destination: str
    port: int
    count: int
    last: datetime


def seen_in_plaintext(connections: Iterable[Connection]) -> tuple[Plaintext, ...]:
    """Sum up the plaintext that workloads of the mesh took, by client and port."""
    return _summed((each.source.name, each, each.count) for each in connections)


def noted_in_plaintext(noted: Iterable[Noted]) -> tuple[Plaintext, ...]:
    """The same of what the nodes of a cluster have noted."""
    return _summed((each.total.source, each.total.newest, each.total.count) for each in noted)


def _summed(seen: Iterable[tuple[str, Connection, int]]) -> tuple[Plaintext, ...]:
    sums: dict[tuple[str, str, int], Plaintext] = {}
    for source, newest, count in seen:
        # A client's own report would count the connection a second time.
        if newest.outcome is not Outcome.PLAINTEXT or newest.side is not Side.SERVER:
            continue
        if newest.destination.workload is None:
            continue
        key = (newest.destination.workload, source, newest.destination.port)
        before = sums.get(key)
        sums[key] = Plaintext(
            source=source,
            destination=newest.destination.workload,
            port=newest.destination.port,
            count=before.count + count if before else count,
            last=max(before.last, newest.time) if before else newest.time,
        )
    return tuple(each for _, each in sorted(sums.items()))
