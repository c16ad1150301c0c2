from __future__ import annotations

import msgspec
import pytest
from tests.explain.seen import world
from tests.samples import NOON

from troth.mesh.model import Pod
from troth.traffic.connection import UNKNOWN, ConnectionReport, Outcome, Party, Reason, Side
from troth.traffic.observe import Observer

PAYMENTS = Party(address="10.0.1.2", port=0, pod="finance/payments-0", workload="finance/payments")


def overflow(pod: str, side: Side) -> ConnectionReport:
    return ConnectionReport.of_count(
        pod,
        time=NOON,
        count=7,
        outcome=Outcome.FAILED,
        reason=Reason.TOO_MANY_CONNECTIONS,
        side=side,
        detail="that leave it",
    )


@pytest.mark.parametrize("side", Side)
def test_connections_that_were_too_many_are_one_event_with_one_known_end(side: Side) -> None:
    event = Observer(world()).named(overflow("finance/payments", side))
    assert event is not None
    own, other = (
        (event.source, event.destination)
        if side is Side.CLIENT
        else (event.destination, event.source)
    )
    assert own == PAYMENTS
    assert other.name == UNKNOWN
    assert event.mode is None
    assert (event.count, event.time, event.outcome) == (7, NOON, Outcome.FAILED)
    assert (event.reason, event.side) == (Reason.TOO_MANY_CONNECTIONS, side)


def test_of_a_pod_that_is_gone_nothing_is_told() -> None:
    assert Observer(world()).named(overflow("finance/gone", Side.SERVER)) is None


def test_a_nodes_address_is_nobodys_pod() -> None:
    node = Pod(
        uid="agent",
        namespace="troth-system",
        name="troth-node-x",
        node="node-1",
        addresses=("172.30.0.11",),
        host_network=True,
    )
    known = world()
    with_node = msgspec.structs.replace(known, pods={**known.pods, node.uid: node})
    report = overflow("finance/payments", Side.SERVER)
    probing = msgspec.structs.replace(
        report.connection, source=Party(address="172.30.0.11", port=4711)
    )
    event = Observer(with_node).named(msgspec.structs.replace(report, connection=probing))
    assert event is not None
    assert (event.source.workload, event.source.name) == (None, "172.30.0.11")
