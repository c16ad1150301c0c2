from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.explain.seen import world

from troth.agent.observe import Observer
from troth.envoy.overflow import Overflow
from troth.traffic.connection import UNKNOWN, Outcome, Party, Reason, Side

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAYMENTS = Party(address="10.0.1.2", port=0, pod="finance/payments-0", workload="finance/payments")


def overflow(pod: str, side: Side) -> Overflow:
    return Overflow(
        pod=pod, side=side, reason=Reason.TOO_MANY_CONNECTIONS, detail="that leave it", count=7
    )


@pytest.mark.parametrize("side", Side)
def test_connections_that_were_too_many_are_one_event_with_one_known_end(side: Side) -> None:
    event = Observer(world()).overflow(overflow("finance/payments", side), NOON)
    assert event is not None
    own, other = (
        (event.source, event.destination)
        if side is Side.CLIENT
        else (event.destination, event.source)
    )
    assert own == PAYMENTS
    assert other.name == UNKNOWN
    assert (event.count, event.time, event.outcome) == (7, NOON, Outcome.FAILED)
    assert (event.reason, event.side) == (Reason.TOO_MANY_CONNECTIONS, side)


def test_of_a_pod_that_is_gone_nothing_is_told() -> None:
    assert Observer(world()).overflow(overflow("finance/gone", Side.SERVER), NOON) is None
