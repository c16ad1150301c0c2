"""Which connections of a node count as traffic."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from tests.explain.seen import connection, pod, world
from tests.samples import NOON

from troth.mesh.model import Endpoint
from troth.mesh.target import Target
from troth.traffic.connection import (
    Connection,
    ConnectionReport,
    Outcome,
    Party,
    Reason,
    Side,
)
from troth.traffic.ledger import Connections, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

WEB = pod("finance/web", 8080)
TARGET = Target(address="10.0.1.2", port=8080, endpoints=(Endpoint("10.0.1.2", 8080),))
SEEN = connection("finance/web > finance/payments:8080 accepted", world())


async def as_it_is(report: ConnectionReport) -> ConnectionReport:
    return report


def refused(count: int) -> ConnectionReport:
    return ConnectionReport.of_count(
        "finance/payments",
        time=NOON,
        count=count,
        outcome=Outcome.FAILED,
        reason=Reason.APP_UNREACHABLE,
        side=Side.SERVER,
        other="10.0.1.1",
        port=8080,
    )


def test_a_traced_connection_is_the_first_of_each_side_that_was_expected() -> None:
    seen = Connections()
    assert [each.traced for each in seen.marked(SEEN)] == [False]
    seen.expect(WEB, TARGET, own_port=None, seconds=60)
    assert [each.traced for each in seen.marked(SEEN)] == [True]
    assert [each.traced for each in seen.marked(SEEN)] == [False]


async def test_of_connections_that_were_counted_one_is_traced_and_the_others_count(
    tmp_path: Path,
) -> None:
    async def reports() -> AsyncIterator[ConnectionReport]:
        yield refused(3)
        yield ConnectionReport(pod="finance/gone", connection=refused(1).connection)

    counted: list[Connection] = []
    ledger = Ledger(tmp_path / "events", complete=as_it_is, count=counted.append)
    ledger.follow(world())
    ledger.connections.expect(WEB, TARGET, own_port=None, seconds=60)
    await ledger.read(reports())
    assert [(each.traced, each.count) for each in ledger.connections] == [(True, 1), (False, 2)]
    assert [each.count for each in counted] == [2]
    assert {each.destination for each in counted} == {
        Party(address="10.0.1.2", port=8080, pod="finance/payments-0", workload="finance/payments")
    }
    (total,) = ledger.journal.tally.totals(NOON - timedelta(hours=1))
    assert total.count == 2


def test_what_was_dropped_of_a_stranger_is_no_traced_connection() -> None:
    seen = Connections()
    seen.expect(WEB, TARGET, own_port=None, seconds=60)
    dropped = msgspec.structs.replace(SEEN, reason=Reason.TOO_MANY_UNPROVED)
    assert [each.traced for each in seen.marked(dropped)] == [False]
