"""What connection events say about plaintext: who still speaks it to whom."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from troth.mesh import Outcome, Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from troth.mesh import Connection


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
    seen: dict[tuple[str, str, int], Plaintext] = {}
    for each in connections:
        # A client's own report would count the connection a second time.
        if each.outcome is not Outcome.PLAINTEXT or each.side is not Side.SERVER:
            continue
        if each.destination.workload is None:
            continue
        source = each.source.workload or each.source.address
        key = (each.destination.workload, source, each.destination.port)
        before = seen.get(key)
        seen[key] = Plaintext(
            source=source,
            destination=each.destination.workload,
            port=each.destination.port,
            count=before.count + 1 if before else 1,
            last=max(before.last, each.time) if before else each.time,
        )
    return tuple(each for _, each in sorted(seen.items()))
